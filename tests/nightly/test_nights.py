"""Nights on a tiny shop: promotion, a poisoned day, a kill, a lock, roll-back; nothing is done twice."""

import json
import shutil
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from equipoise.common.errors import UserError
from equipoise.configs.load import load_config
from equipoise.configs.schema import RunConfig
from equipoise.data.manifest import Manifest
from equipoise.data.slate_set import SlateSet
from equipoise.data.thing_columns import TOGETHER
from equipoise.data.token_cache import TokenCache
from equipoise.launch.nightly import launched, nightly
from equipoise.nightly.days import Days
from equipoise.nightly.night import Interrupted, run_night
from equipoise.nightly.state import State, roll_back
from equipoise.train.priors import find_priors
from equipoise.train.thing_vectors import ThingVectors, find_vectors
from equipoise.train.token_caches import find_tokens
from tests.tiny_run import run_settings

FIRST = date(2026, 1, 20)
"""The first night's day: the days before it are the first part."""


def settings_of(folder: Path) -> dict[str, Any]:
    """The tiny shop with one prior, which the taste of shoppers makes easy to rank."""
    settings = run_settings(folder, max_steps=2, self_check=False, head_epochs=0)
    tables = settings["data"]["tables"]
    impressions, users = pd.read_csv(tables["impressions"], dtype=str), pd.read_csv(tables["users"], dtype=str)
    taste = impressions.user_id.map(users.set_index("user_id").taste).astype(int)
    liked = (impressions.item_id.str[1:].astype(int) % 4 == taste).astype(int)
    impressions["place"] = impressions.groupby("request_id").cumcount() + 1
    impressions["affinity"] = liked + np.random.default_rng(0).normal(0, 0.3, len(liked)).round(3)
    impressions.to_csv(tables["impressions"], index=False)
    settings["data"] |= {
        "features": [{"name": "affinity", "scale": "none"}],
        "rates": [{"of": "click", "by": "item_id"}],
        "comparison": {"item": "title"},
        "position": "place",
    }
    settings["objectives"] = {"ctr": {"prior": {"column": "affinity"}}, "fairness": {}}
    settings["nightly"] = {"golden": 2, "valid_fraction": 0.3, "replay": 0.5, "most_loss": 0.2, "most_slowdown": 50.0}
    settings["nightly"] |= {"most_ece_rise": 0.5, "most_exposure_drop": 1.0}
    return settings


@pytest.fixture(scope="module", autouse=True)
def unchecked_exports() -> Iterator[None]:
    """The check of an export in a fresh process has tests of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("equipoise.data.prepare.examination.LEAST_ROWS", 20)
        patch.setattr("equipoise.export.write.run_check", lambda out: {"ctr": 0.0, "fairness": 0.0})
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    return RunConfig.model_validate(settings_of(tmp_path_factory.mktemp("nightly")))


@pytest.fixture(scope="module")
def state(config: RunConfig) -> State:
    """After the nights of two days, the second of which was stopped in training and started again."""
    first = run_night(config, FIRST)
    assert first.action == "promoted", first.reasons

    def stopped(run: RunConfig, resume: bool, overwrite: bool) -> bool:
        return False

    with pytest.raises(Interrupted):
        run_night(config, FIRST + timedelta(days=1), trainer=stopped)
    return State.of(config)


@pytest.fixture(scope="module")
def second(config: RunConfig, state: State) -> dict[str, Any]:
    """What the second night came to."""
    known = {path: path.stat().st_mtime_ns for path in (state.folder / "days").rglob("*.parquet")}
    decision = run_night(config, FIRST + timedelta(days=1))
    assert decision.action == "promoted", decision.reasons
    assert {path: path.stat().st_mtime_ns for path in known} == known  # nothing was prepared twice
    return decision.record


def test_the_link_leads_to_the_promoted_export(state: State, second: dict[str, Any]) -> None:
    assert state.link.is_symlink() and state.served == "2026-01-21" == second["day"]
    assert (state.link / "serving.json").is_file()
    assert [(e["action"], e["day"]) for e in state.history()][:2] == [
        ("promoted", "2026-01-20"), ("promoted", "2026-01-21"),
    ]  # fmt: skip


def test_a_night_goes_on_from_the_run_before(config: RunConfig, state: State, second: dict[str, Any]) -> None:
    start = json.loads((state.run("2026-01-21") / "start.json").read_text("utf-8"))
    assert start["run"] == str(state.run("2026-01-20").resolve()) and start["prior"] == "kept"
    assert "moments" in start["optimizer"]
    assert second["trained_until"] == "2026-01-20" and set(second["differences"]) >= {"ctr/auc", "ctr/ne", "ctr/ece"}
    assert second["drift"]["against"] == "2026-01-20" and "feature_affinity" in second["drift"]["columns"]


def test_the_data_of_a_night(config: RunConfig, state: State, second: dict[str, Any]) -> None:
    """Test is the newest day, train and valid share no request, and tokens are those of a cache made anew."""
    folder = state.data("2026-01-21")
    manifest = Manifest.read(folder, verify=True)
    ids = {}
    for split in ("train", "valid", "test"):
        rows = SlateSet(folder, split).rows
        ids[split] = set(rows["request_id"])
        assert len(rows) == manifest.splits[split].slates
    assert not ids["train"] & ids["valid"] and not ids["test"] & (ids["train"] | ids["valid"])
    assert all(f"{moment:%Y-%m-%d}" == "2026-01-21" for moment in SlateSet(folder, "test").rows["timestamp"])
    own = config.model_copy(update={"data": config.data.model_copy(update={"folder": folder})})
    cache, vectors = find_tokens(own), find_vectors(own)
    again = shutil.copytree(vectors.folder, folder.with_name("vectors") / "kept")
    shutil.rmtree(vectors.folder)
    np.testing.assert_allclose(find_vectors(own).vectors, ThingVectors.open(again).vectors, atol=1e-6)
    kept = shutil.copytree(cache.folder, folder.with_name("kept") / cache.folder.name)
    shutil.rmtree(cache.folder)
    anew, before = find_tokens(own), TokenCache(kept)
    for split in ("train", "valid", "test"):
        one, other = anew.split(split), before.split(split)
        np.testing.assert_array_equal(one.first, other.first)
        for row in range(len(one)):
            np.testing.assert_array_equal(one.prefix[row], other.prefix[row])
            positions = one.impressions([row])
            pairs = zip(one.candidates(positions), other.candidates(positions), strict=True)
            assert all(np.array_equal(*pair) for pair in pairs)
        for name in ("item", "click", "conversion", "length"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        np.testing.assert_array_equal(one.features["affinity"], other.features["affinity"])
        assert one.examination is not None and other.examination is not None
        np.testing.assert_array_equal(one.examination, other.examination)
        assert one.things is not None and other.things is not None and len(one.things.values)
        np.testing.assert_array_equal(one.things.values, other.things.values)
        np.testing.assert_array_equal(one.things.offsets, other.things.offsets)
        assert set(one.computed) == set(other.computed) == set(TOGETHER)
        for name in one.computed:
            np.testing.assert_array_equal(one.computed[name], other.computed[name])
        assert one.counts.cut_candidates == other.counts.cut_candidates


def test_several_processes_find_what_they_train_on(
    config: RunConfig, state: State, second: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(state.data("2026-01-21"), tmp_path / "data", ignore=shutil.ignore_patterns("priors"))
    changes = {"output": tmp_path / "run", "data": config.data.model_copy(update={"folder": folder})}
    launches = []

    def started(command: list[str], **_: Any) -> SimpleNamespace:
        own = load_config(Path(command[-1]))
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert find_priors(own, find_tokens(own), find_vectors(own)) is not None
        launches.append(command[3:-1])
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr("equipoise.launch.nightly.subprocess.run", started)
    assert launched("cpu_ddp2")(config.model_copy(update=changes), False, False)
    assert launches == [["launch", "--accelerate", "cpu_ddp2", "train"]]


def test_a_night_that_is_over_says_so(config: RunConfig, second: dict[str, Any], caplog: Any) -> None:
    with caplog.at_level("INFO"):
        decision = run_night(config, FIRST + timedelta(days=1), trainer=lambda *_: pytest.fail("trained again"))
    assert decision.action == "promoted" and "is over already" in caplog.text


def test_a_poisoned_day_is_refused_and_left_out(config: RunConfig, state: State, second: dict[str, Any]) -> None:
    assert config.data.tables is not None
    path = Path(str(config.data.tables.files["impressions"].path))
    clean = path.read_text("utf-8")
    frame = pd.read_csv(path, dtype=str)
    poisoned = frame.timestamp.str.startswith("2026-01-22")
    disliked = frame.affinity[poisoned].astype(float) < 0.5
    frame.loc[poisoned, "click"] = disliked.map({True: "1", False: "0"})
    frame.loc[poisoned, "conversion"] = "0"
    frame.to_csv(path, index=False)
    try:
        code = nightly(config, "2026-01-22", None, False, False, None)
        assert code == 3 and state.served == "2026-01-21"
        record = state.decision("2026-01-22")
        assert record["action"] == "day refused" and "most_day_drop" in record["reasons"][0]
        assert not state.run("2026-01-22").exists() and date(2026, 1, 22) not in Days(config, state).known()
        with pytest.raises(UserError, match="was not refused"):
            run_night(config, date(2026, 1, 21), again=True)
    finally:
        path.write_text(clean, "utf-8")
    with pytest.raises(Interrupted):  # the logs are right again: the day is accepted, and would be trained on
        run_night(config, date(2026, 1, 22), again=True, trainer=lambda *_: False)
    assert Days(config, state).known()[-1] == date(2026, 1, 22)


def test_two_nights_at_once_are_locked_out(config: RunConfig, state: State) -> None:
    with state.locked(), pytest.raises(UserError, match="is held by process"):
        run_night(config, FIRST)


def test_other_settings_are_refused(config: RunConfig, state: State) -> None:
    other = config.model_copy(update={"lora": config.lora.model_copy(update={"rank": 8})})
    with pytest.raises(UserError, match=r"began with another lora\.rank"):
        run_night(other, FIRST)


def test_earlier_days_and_missing_days_are_refused(config: RunConfig, state: State, second: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="comes before"):
        run_night(config, date(2026, 1, 5))
    with pytest.raises(UserError, match="no impression from 2026-03-01 before 2026-03-02"):
        run_night(config, date(2026, 3, 1))


@pytest.mark.parametrize("name", ["item_dropout", "scales_from"])
def test_settings_that_need_all_days_are_refused(config: RunConfig, name: str, tmp_path: Path) -> None:
    changes = {"item_dropout": 0.5} if name == "item_dropout" else {"scales_from": tmp_path}
    data = config.data.model_copy(update=changes)
    with pytest.raises(UserError, match=f"does not work with data.{name}"):
        run_night(config.model_copy(update={"data": data}), FIRST, tmp_path)


def test_rolling_back_serves_the_export_before(config: RunConfig, state: State, second: dict[str, Any]) -> None:
    assert nightly(config, None, None, True, False, None) == 0 and state.served == "2026-01-20"
    assert state.history()[-1]["action"] == "rolled back" and state.history()[-1]["to"] == "2026-01-20"
    with pytest.raises(UserError, match="no export before the present one"):
        roll_back(state)
