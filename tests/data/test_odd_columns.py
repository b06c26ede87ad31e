"""Columns that look odd and are ordinary: each is read for what it holds, and what matches nothing is counted aloud."""

import math
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from equipoise.configs.features import FeatureConfig
from equipoise.configs.schema import DataConfig, HistoryConfig, PromptConfig
from equipoise.data.prepare.slates import prepare
from equipoise.evaluation.baselines import field_ranking
from equipoise.evaluation.metrics.score_table import ScoreTable
from equipoise.serving.items import read_items
from equipoise.serving.limits import Limits
from equipoise.serving.omega import OperatingPoint
from equipoise.serving.requests import RequestReader

Make = Callable[..., DataConfig]
Rows = dict[str, list[dict[str, Any]]]


@pytest.mark.parametrize(
    ("ending", "known"),
    [("csv", {"7", "8.5", "1e+20", "inf", "-inf"}), ("parquet", {"7", "8.5", "100000000000000000000"})],
)
def test_a_number_that_is_none_is_an_unknown_category(
    rows: Rows, make_config: Make, ending: str, known: set[str]
) -> None:
    shelves = [math.nan, 7.0, math.inf, 8.5, 1e20, -math.inf]
    for row, shelf in zip(rows["impressions"], shelves * 2, strict=False):
        row["shelf"] = shelf
    manifest = prepare(make_config(rows, ending, features=[FeatureConfig(name="shelf", scale="category")]))
    assert set(manifest.features["shelf"].values) == known  # in CSV all but "nan" are words


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_names_of_labels_and_moments_are_attributes_elsewhere(rows: Rows, make_config: Make, ending: str) -> None:
    for number, row in enumerate(rows["items"]):
        row |= {"click": 500.5 + number, "conversion": "often", "timestamp": "spring 2024", "user_id": 1e30}
    for row in rows["users"]:
        row |= {"click": 300.25, "timestamp": "31/12", "item_id": "none"}
    prompt = PromptConfig(prefix=["age {age}"], item=["{title}", "{click}", "{conversion}", "{timestamp}"])
    config = make_config(rows, ending, prompt=prompt)
    prepare(config)
    assert pq.read_table(config.folder / "items.parquet")["text"][0].as_py() == "apples, 500.5, often, spring 2024"
    told = pq.read_table(config.folder / "slates" / "train-00000.parquet").to_pylist()[0]
    assert told["prefix"].startswith("age 30-39") and set(told["click"]) == {0, 1}


@pytest.mark.parametrize(("unit", "zone"), [("ns", "UTC"), ("ns", "Asia/Tokyo"), ("s", "+02:00")])
def test_moments_are_read_in_every_unit_and_zone(rows: Rows, make_config: Make, unit: str, zone: str | None) -> None:
    config = make_config({name: rows[name] for name in ("impressions", "items")}, "parquet", user_groups=[],
                         prompt=PromptConfig(item=["{title}"]))  # fmt: skip
    table = pq.read_table(config.tables.impressions)
    moments = [datetime.fromisoformat(row["timestamp"]).replace(tzinfo=UTC) for row in rows["impressions"]]
    column = pa.array(moments, pa.timestamp("us", "UTC")).cast(pa.timestamp(unit, zone))
    place = table.column_names.index("timestamp")
    pq.write_table(table.set_column(place, "timestamp", column), config.tables.impressions)
    prepare(config)
    told = pq.read_table(config.folder / "slates" / "test-00000.parquet")["timestamp"].to_pylist()
    assert told == [datetime(2024, 3, 1)] or told == [datetime(2024, 3, 1, tzinfo=UTC)]


def test_events_of_other_spellings_of_users_are_counted(rows: Rows, make_config: Make) -> None:
    notes = prepare(make_config(rows)).notes
    assert not any("have no events" in note for note in notes)
    for row in rows["events"]:
        row["user_id"] = row["user_id"].upper()
    notes = prepare(make_config(rows)).notes
    assert "2 of 2 users of impressions have no events: check that both write user_id the same way." in notes


def test_a_field_keeps_every_digit_up_to_the_baseline(rows: Rows, make_config: Make, tmp_path: Path) -> None:
    seconds = [1_740_000_000.0 + number for number in range(len(rows["impressions"]))]
    for row, moment in zip(rows["impressions"], seconds, strict=True):
        row["bought"] = moment
    config = make_config(rows, "parquet")
    manifest = prepare(config)
    files = [config.folder / name for split in manifest.splits.values() for name in split.files]
    kept = np.concatenate([cell for file in files for cell in pq.read_table(file)["field_bought"].to_pylist()])
    assert sorted(kept) == seconds
    zeros = [0] * len(kept)
    table = ScoreTable(zeros, zeros, ["u"] * len(kept), zeros, zeros, [0.5] * len(kept), fields={"bought": kept})
    table.save(tmp_path / "scores.parquet")
    ranks = field_ranking(ScoreTable.load(tmp_path / "scores.parquet"), "bought")
    assert len(set(ranks)) == len(seconds) and np.array_equal(np.argsort(ranks), np.argsort(kept))


@pytest.mark.parametrize(
    ("titles", "words"),
    [
        (pa.array([1984, 1981]), "1984"),
        (pa.array([1984.5, 2.0]), "1984.5"),
        (pa.array([date(2024, 3, 1), None]), "2024-03-01"),
        (pa.array([True, False]), "true"),
    ],
)
def test_a_title_of_any_type_is_text_in_a_history_by_id(tmp_path: Path, titles: pa.Array, words: str) -> None:
    pq.write_table(pa.table({"item_id": ["m1", "m2"], "text": ["x", "y"], "title": titles}), tmp_path / "items.parquet")
    known = read_items(tmp_path / "items.parquet")
    reader = RequestReader(PromptConfig(), HistoryConfig(), known, OperatingPoint({}, {}), Limits())
    by_id, by_title = (
        reader.read({"history": [past], "candidates": ["m1"]}).prefix for past in ({"item_id": "m1"}, words)
    )
    assert by_id == by_title == f"bought before: {words}"
