"""The learning rate as a function of the step, running means, and the record file of a resumed run."""

import json
import math
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configs.errors import UserError
from configs.schema import RunConfig
from train.accelerate_setup import make_accelerator
from train.averages import Averages
from train.schedule import rate_factor
from train.tracking import Tracking


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
    accelerator: Any = SimpleNamespace(is_main_process=True, log_with=[], log=lambda values, step: None)
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


def test_a_missing_tracker_is_not_left_out_silently(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = {
        "name": "x",
        "output": str(tmp_path),
        "data": {"folder": "unused", "source": "complete_journey"},
        "backbone": {"path": "unused"},
        "objectives": {"ctr": {}},
        "tensorboard": True,
    }
    monkeypatch.setattr("train.accelerate_setup.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install equipoise\[tensorboard\]"):
        make_accelerator(RunConfig.model_validate(settings), tmp_path)
