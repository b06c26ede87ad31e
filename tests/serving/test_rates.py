"""Rates that a request does not bring come from the export's last state, alike in all ways to score."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.random_run import write_random_run
from equipoise.common.errors import UserError
from equipoise.common.plackett_luce import place_log_propensities
from equipoise.common.verified import MEMORY
from equipoise.configs.load import load_config
from equipoise.configs.schema import RunConfig
from equipoise.data.prepare.slates import prepare
from equipoise.data.rates import FOLDER, RateLookup, read_state
from equipoise.export.files import open_record, whole_files
from equipoise.export.write import export_run
from equipoise.launch.cli import main
from equipoise.scoring.options import RecommendOptions, ScoreOptions
from equipoise.scoring.recommend import recommend_file
from equipoise.scoring.score_run import score_run
from equipoise.serving.recommender import Recommender
from equipoise.train.job import train
from tests.tiny_run import run_settings, write_config

RATES = [
    {"of": "click", "by": "item_id"},
    {"of": "conversion", "by": ["user_id", "category"], "parent": "category", "half_life_days": 5},
    {"of": "click", "by": "category", "half_life_days": 3, "delay_days": "seen_before"},
]
ITEMS = ["i3", "i4", "i17"]


@dataclass(frozen=True)
class Rated:
    """A run with rates on its tables, without the last day in `log`, and its export."""

    config: RunConfig
    export: Path
    log: pd.DataFrame


@pytest.fixture(scope="module")
def rated(tmp_path_factory: pytest.TempPathFactory) -> Rated:
    folder = tmp_path_factory.mktemp("rated")
    settings = run_settings(folder)
    settings["data"] |= {"rates": RATES, "features": [{"name": "category", "scale": "category", "max_categories": 2}]}
    settings["objectives"] = {"ctr": {}, "cvr": {}}
    settings["balancing"] = {}
    config = load_config(write_config(settings, folder / "config.yaml"))
    manifest = prepare(config.data)
    write_random_run(config, features={name: scale.model_dump() for name, scale in manifest.features.items()})
    export_run(config.output, folder / "export", golden=3)
    assert config.data.tables is not None
    return Rated(config, folder / "export", pd.read_csv(config.data.tables.impressions))


@pytest.fixture(scope="module")
def recommender(rated: Rated) -> Recommender:
    return Recommender.load(rated.export)


def features(recommender: Recommender, user: dict[str, Any], candidate: Any) -> dict[str, float]:
    read = recommender.reader.read({"user": user, "candidates": [candidate]})
    return dict(zip(recommender.reader.features, read.candidates[0].features, strict=True))


def test_the_state_of_rates_is_pushed_along(rated: Rated, tmp_path: Path) -> None:
    export = Path(shutil.copytree(rated.export, tmp_path / "export"))
    there = {path.relative_to(export).as_posix() for path in export.rglob("*") if path.is_file()}
    assert set(whole_files(export, open_record(export))) == {name for name in there if not name.endswith(MEMORY)}
    state = next(name for name in there if name.startswith("rates/") and not name.endswith(".json"))
    (export / state).write_bytes(b"")
    with pytest.raises(UserError, match=rf"{state} is not as it was written: restore it"):
        whole_files(export, open_record(export))


def test_a_request_gets_the_rates_of_the_state(rated: Rated, recommender: Recommender) -> None:
    shown = rated.log.item_id.value_counts()
    found = features(recommender, {"user_id": "u3", "age": "20"}, "i4")
    lookup = RateLookup.read(rated.config.data.folder / FOLDER / rate.file for rate in rated.config.data.rates)
    cells = {"item_id": "i4", "user_id": "u3", "category": pd.read_csv(rated.config.data.tables.items).category[4]}
    assert found["shown_by_item_id"] == shown["i4"]
    for name in recommender.reader.features[1:]:
        assert found[name] == lookup.value(name, cells.__getitem__) and not np.isnan(found[name])
    new = features(recommender, {"user_id": "nobody"}, {"item_id": "new", "item": {"title": "tea", "category": "x"}})
    clicks = rated.log.click
    assert new["shown_by_item_id"] == new["shown_by_user_id_category_5d"] == 0
    assert new["rate_click_by_item_id"] == pytest.approx((clicks.sum() + 0.5) / (len(clicks) + 1))
    unknown = features(recommender, {}, "i4")
    assert np.isnan(unknown["rate_conversion_by_user_id_category_5d"]) and unknown["shown_by_item_id"] == shown["i4"]


def test_values_of_the_request_win(recommender: Recommender) -> None:
    candidate = {"item_id": "i4", "features": {"rate_click_by_item_id": 0.25}, "context": {"shown_by_item_id": 7}}
    found = features(recommender, {"user_id": "u3"}, candidate)
    assert (found["rate_click_by_item_id"], found["shown_by_item_id"]) == (0.25, 7.0)


def test_all_ways_give_the_same_scores(rated: Rated, recommender: Recommender, tmp_path: Path) -> None:
    users = ["u1", "u2", "nobody"]
    ages = ["20", "30", "40"]
    expected = [
        [one.probabilities["ctr"] for one in recommender.score({"user_id": user, "age": age}, ITEMS).given]
        for user, age in zip(users, ages, strict=True)
    ]
    assert np.abs(np.diff(expected, axis=0)).min() > 1e-7
    table = {"request_id": ["a", "b", "c"], "user_id": users, "age": ages, "item_id": [ITEMS] * 3}
    pd.DataFrame(table).to_parquet(tmp_path / "requests.parquet")
    score_run(rated.config.output, tmp_path / "requests.parquet", tmp_path / "scores", ScoreOptions())
    scored = pd.concat([pd.read_parquet(path) for path in sorted((tmp_path / "scores").glob("*.parquet"))])
    np.testing.assert_allclose(scored.sort_values(["request_id", "position"]).pctr, np.ravel(expected), rtol=1e-5)
    rows = pd.DataFrame(table).explode("item_id")
    rows.to_parquet(tmp_path / "rows.parquet")
    for name in ("requests", "rows"):
        out = tmp_path / f"{name}.ranked.parquet"
        recommend_file(rated.export, tmp_path / f"{name}.parquet", out, RecommendOptions())
        ranked = pd.read_parquet(out).sort_values(["request_id", "position"])
        np.testing.assert_allclose(ranked.pctr, np.ravel(expected), rtol=1e-5)
    options = RecommendOptions(explore=1.0, explore_seed=1, overwrite=True)
    recommend_file(rated.export, tmp_path / "rows.parquet", out, options)
    for _, drawn in pd.read_parquet(out).sort_values(["request_id", "rank"]).groupby("request_id"):
        logs = place_log_propensities(drawn.utility.to_numpy(), np.arange(len(drawn)), 1.0)
        np.testing.assert_allclose(drawn.propensity, np.exp(logs), rtol=1e-4)
    explained = recommender.explain({"user_id": "u1", "age": "20"}, ITEMS, explain=[0]).to_json()
    assert "rate_click_by_item_id" in str(explained)


def parts(rated: Rated, tmp_path: Path, day: str) -> tuple[Path, Path]:
    """The log before and from a moment on, as files."""
    early, late = rated.log[rated.log.timestamp < day], rated.log[rated.log.timestamp >= day]
    early.to_csv(tmp_path / "early.csv", index=False)
    late.drop(columns="request_id").to_parquet(tmp_path / "late.parquet")
    return tmp_path / "early.csv", tmp_path / "late.parquet"


@pytest.fixture
def early(rated: Rated, tmp_path: Path) -> tuple[Path, Path]:
    """An export whose rates lack the last days, and the file of these."""
    first, late = parts(rated, tmp_path, "2026-01-24")
    data = rated.config.data
    assert data.tables is not None
    tables = data.tables.model_copy(update={"impressions": first})
    prepare(data.model_copy(update={"folder": tmp_path / "prepared", "tables": tables}))
    export = shutil.copytree(rated.export, tmp_path / "export")
    shutil.rmtree(export / FOLDER)
    shutil.copytree(tmp_path / "prepared" / FOLDER, export / FOLDER)
    return export, late


def same_states(one: Path, other: Path) -> None:
    names = sorted(path.name for path in one.glob("*.parquet"))
    assert names == sorted(path.name for path in other.glob("*.parquet")) and names
    for name in names:
        a, b = read_state(one / name), read_state(other / name)
        assert (a.rate, a.moment, a.levels) == (b.rate, b.moment, b.levels)
        np.testing.assert_allclose(a.shown, b.shown, rtol=1e-12)
        np.testing.assert_allclose(a.positives, b.positives, rtol=1e-12, atol=1e-300)


def test_an_update_gives_the_state_of_the_whole_log(early: tuple[Path, Path], rated: Rated, tmp_path: Path) -> None:
    export, late = early
    main_ok(["rates", "update", str(export), "--impressions", str(late), "--out", str(tmp_path / "states")])
    same_states(tmp_path / "states", rated.config.data.folder / FOLDER)
    assert (
        features(Recommender.load(export, rates=tmp_path / "states"), {}, "i4")["shown_by_item_id"]
        == (rated.log.item_id == "i4").sum()
    )
    main_ok(["rates", "update", str(export), "--impressions", str(late)])
    same_states(export / FOLDER, rated.config.data.folder / FOLDER)


def test_data_prepared_with_other_rates_are_refused(rated: Rated, tmp_path: Path) -> None:
    data = rated.config.data
    other = data.model_copy(update={"rates": [data.rates[0].model_copy(update={"strength": 1.0}), data.rates[1]]})
    with pytest.raises(UserError, match=r"prepared with other data\.rates"):
        train(rated.config.model_copy(update={"data": other, "output": tmp_path / "run"}))


def main_ok(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert not ended.value.code


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows.assign(timestamp="2026-01-23 12:00:00"), "counts those until"),
        (lambda rows: rows.drop(columns="user_id"), "has no column 'user_id', which the rates need"),
        (lambda rows: rows.drop(columns="click"), "has no column 'click'"),
        (lambda rows: rows.drop(columns="item_id"), "has no column 'item_id'"),
        (lambda rows: rows.assign(click=2), "write labels as 0 or 1"),
    ],
)
def test_impressions_that_do_not_fit_change_nothing(
    early: tuple[Path, Path], tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], words: str
) -> None:
    from equipoise.launch.rates import update_rates

    export, late = early
    change(pd.read_parquet(late)).to_parquet(late)
    before = {path.name: path.read_bytes() for path in (export / FOLDER).iterdir()}
    with pytest.raises(UserError, match=words):
        update_rates(export, late, None)
    assert {path.name: path.read_bytes() for path in (export / FOLDER).iterdir()} == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(UserError, match="holds other files"):
        update_rates(export, late, tmp_path / "other")
