"""The learning rate as a function of the step, running means, and the record file of a resumed run."""

import json
import math
import subprocess
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from equipoise.common.errors import UserError
from equipoise.configs.schema import RunConfig
from equipoise.train.accelerate_setup import make_accelerator
from equipoise.train.averages import Averages
from equipoise.train.environment import git_state
from equipoise.train.schedule import rate_factor
from equipoise.train.trackers.tracking import Tracking


def test_warm_up_then_half_a_cosine() -> None:
    factors = [rate_factor(step, 10, warmup=0.2, floor=0.1) for step in range(11)]
    assert factors[:2] == [0.5, 1.0]
    assert factors[2] == pytest.approx(1.0)
    assert factors[6] == pytest.approx(0.1 + 0.9 * 0.5)
    assert factors[10] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(factors[1:]))
    assert rate_factor(0, 1, warmup=0.0, floor=0.0) == 1.0


def test_averages_leave_out_what_is_not_finite() -> None:
    averages = Averages()
    for value in (1.0, math.nan, 3.0, math.inf):
        averages.add("a", value)
    averages.add("b", math.nan)
    assert averages.drain() == {"a": 2.0}
    assert averages.drain() == {}


def test_a_resumed_run_forgets_what_it_will_write_again(tmp_path: Path) -> None:
    config: Any = SimpleNamespace()
    accelerator: Any = SimpleNamespace(is_main_process=True, num_processes=1, log_with=[])
    tracking = Tracking(accelerator, config, tmp_path, resumed=False)
    for step in range(1, 6):
        tracking.log(step, {"train/loss/ctr": step / 10, "train/odd": math.nan})
    with tracking.path.open("a") as file:
        file.write('{"step": 6, "train/lo')  # a kill in the middle of a line
    again = Tracking(accelerator, config, tmp_path, resumed=True)
    again.forget_after(3)
    records = [json.loads(line) for line in again.path.read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3]
    assert records[0]["train/loss/ctr"] == 0.1 and records[0]["train/odd"] is None


def test_a_tracker_that_dies_stops_no_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    calls = []

    def log(values: dict[str, float], step: int) -> None:
        calls.append(step)
        if step > 1:
            raise ConnectionError("the network is gone")

    def fail() -> None:
        raise AssertionError("a failed tracker is told no more")

    config: Any = SimpleNamespace()
    accelerator: Any = SimpleNamespace(
        is_main_process=True, num_processes=1, log_with=[], trackers=[], end_training=fail
    )
    tracking = Tracking(accelerator, config, tmp_path, resumed=False)
    accelerator.log_with, accelerator.log = ["tensorboard"], log
    for step in range(1, 5):
        tracking.log(step, {"train/loss/ctr": float(step)})
    assert calls == [1, 2]
    assert tracking.finish({"finished": True}, tmp_path) is None
    assert len(tracking.path.read_text().splitlines()) == 4
    assert json.loads((tmp_path / "summary.json").read_text()) == {"finished": True}
    assert [record.message for record in caplog.records if "training goes on" in record.message] == [
        f"the experiment trackers failed (ConnectionError: the network is gone): training goes on, all numbers are in "
        f"{tracking.path}"
    ]


def test_the_environment_is_kept(tmp_path: Path) -> None:
    accelerator: Any = SimpleNamespace(is_main_process=True, num_processes=3, log_with=[])
    Tracking(accelerator, SimpleNamespace(), tmp_path, resumed=False)  # type: ignore[arg-type]
    kept = json.loads((tmp_path / "environment.json").read_text())
    assert kept["processes"] == 3 and kept["machine"]["cores"] >= 1 and kept["versions"]["torch"]


def test_the_state_of_the_code(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@x"]
    subprocess.run([*git, "init", "-q", "-b", "trunk"], check=True)
    (tmp_path / "a").write_text("1")
    subprocess.run([*git, "add", "a"], check=True)
    subprocess.run([*git, "commit", "-qm", "a"], check=True)
    state = git_state(tmp_path)
    assert state is not None and len(state["commit"]) == 40
    assert (state["branch"], state["dirty"]) == ("trunk", False)
    (tmp_path / "a").write_text("2")
    assert git_state(tmp_path) == {**state, "dirty": True}


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_missing_tracker_is_not_left_out_silently(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = {
        "name": "x",
        "output": str(tmp_path),
        "data": {"folder": "unused", "source": "complete_journey"},
        "backbone": {"path": "unused"},
        "objectives": {"ctr": {}},
        name: True,
    }
    monkeypatch.setattr("equipoise.train.accelerate_setup.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"{name}: true needs its package.*pip install equipoise\[{name}\]"):
        make_accelerator(RunConfig.model_validate(settings), tmp_path)
