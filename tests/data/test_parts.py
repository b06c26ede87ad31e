"""Parts of some days each hold what all days prepared at once would hold."""

from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from equipoise.common.errors import UserError
from equipoise.configs.schema import DataConfig
from equipoise.data.manifest import Manifest
from equipoise.data.prepare.parts import Part
from equipoise.data.prepare.slates import prepare
from equipoise.data.rates import read_state
from equipoise.data.thing_columns import CoPurchase
from tests.tiny_run import write_tables

CUTS = (datetime(2026, 1, 15), datetime(2026, 1, 20), datetime(2026, 2, 1))
RATES: list[dict[str, Any]] = [
    {"of": "click", "by": "item_id"},
    {"of": "click", "by": ["user_id", "item_id"], "parent": "user_id", "half_life_days": 3},
    {"of": "conversion", "by": "item_id", "given": "click", "delay_days": 6.5, "half_life_days": 20},
]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    folder = tmp_path_factory.mktemp("parts")
    tables = write_tables(folder / "tables", requests=120)
    data = DataConfig.model_validate(
        {
            "folder": folder / "whole",
            "tables": tables,
            "prompt": {"prefix": ["age {age}"], "context": ["seen {seen_before|count}"]},
            "features": [{"name": "seen_before", "scale": "log1p"}],
            "rates": RATES,
            "history": {"max_events": 3},
            "comparison": {"item": "title", "max_events": 3, "half_life_days": 9},
        }
    )
    prepare(data)
    return data


@pytest.fixture(scope="module")
def parts(config: DataConfig) -> list[Path]:
    """The folders of three parts, one after the other."""
    before, since, folders = None, None, []
    for number, until in enumerate(CUTS):
        folder = config.folder.with_name(f"part{number}")
        kept = folders[0] if folders else None
        own = config.model_copy(update={"folder": folder, "scales_from": kept})
        prepare(own, part=Part(since, until, before))
        before, since = folder, until
        folders.append(folder)
    return folders


OF_REQUESTS = ("request_id", "user_id", "part", "timestamp", "prefix", "things")


def rows_of(folders: list[Path], splits: tuple[str, ...]) -> pd.DataFrame:
    """One row per impression, by request and item."""
    found = []
    for folder in folders:
        ids = pq.read_table(folder / "items.parquet").column("item_id").to_pylist()
        texts = pq.read_table(folder / "things.parquet").column("text").to_pylist()
        for split in splits:
            for file in Manifest.read(folder).splits[split].files:
                frame = pq.read_table(folder / file).to_pandas()
                frame["things"] = [[texts[thing] for thing in row] for row in frame["things"]]
                lists = [name for name in frame if name not in OF_REQUESTS]
                flat = frame.explode(lists)
                found.append(flat.assign(item=[ids[item] for item in flat["item"]]))
    return pd.concat(found).sort_values(["request_id", "item"]).reset_index(drop=True)


def test_rows_of_parts_are_those_of_all_days_at_once(config: DataConfig, parts: list[Path]) -> None:
    whole, joined = rows_of([config.folder], ("train", "valid", "test")), rows_of(parts, ("train",))
    assert list(whole.columns) == list(joined.columns) and len(whole) == len(joined) == 120 * 8
    for name in whole:
        if name.startswith(("feature_", "computed_")):
            one, other = (frame[name].to_numpy(np.float64) for frame in (whole, joined))
            # Counts of pairs are kept in 32 bits.
            tolerance = 1e-9 if name.startswith("feature_") else 1e-5
            np.testing.assert_allclose(one, other, rtol=tolerance, equal_nan=True, err_msg=name)
            assert np.isfinite(one).any()
        else:
            assert list(whole[name]) == list(joined[name]), name


@pytest.mark.parametrize(("file", "column"), [("items.parquet", "item_id"), ("things.parquet", "text")])
def test_items_and_things_keep_their_numbers(parts: list[Path], file: str, column: str) -> None:
    names = [pq.read_table(folder / file).column(column).to_pylist() for folder in parts]
    for before, after in pairwise(names):
        assert after[: len(before)] == before


def test_things_that_a_later_part_brings_are_numbered_after_the_known_ones(
    config: DataConfig, parts: list[Path], tmp_path: Path
) -> None:
    assert config.tables is not None
    items = pd.read_csv(str(config.tables.files["items"].path), dtype=str)
    items.loc[items.item_id == "i0", "title"] = "a new name"  # before all others by its text
    items.to_csv(tmp_path / "items.csv", index=False)
    tables = config.tables.model_copy(update={"items": tmp_path / "items.csv"})
    own = config.model_copy(update={"folder": tmp_path / "part", "tables": tables, "scales_from": parts[0]})
    prepare(own, part=Part(CUTS[0], CUTS[1], parts[0]))
    before, after = (pq.read_table(f / "things.parquet").column("text").to_pylist() for f in (parts[0], own.folder))
    assert after == [*before, "a new name"]


def test_co_purchase_ends_as_that_of_all_days(config: DataConfig, parts: list[Path]) -> None:
    whole, last = (CoPurchase.read(folder / "co_purchase.npz") for folder in (config.folder, parts[-1]))
    texts = pq.read_table(config.folder / "things.parquet").column("text").to_pylist()
    numbers = pq.read_table(parts[-1] / "things.parquet").column("text").to_pylist()
    of_last = np.array([numbers.index(text) for text in texts])
    of_whole = np.arange(len(texts))
    assert whole.until == last.until and len(whole.pairs_P) == len(last.pairs_P) > 20
    np.testing.assert_allclose(whole.alone(of_whole), last.alone(of_last), rtol=1e-5)
    pairs = [np.repeat(of_whole, len(texts)), np.tile(of_whole, len(texts))]
    np.testing.assert_allclose(whole.both(*pairs), last.both(*(of_last[each] for each in pairs)), rtol=1e-5)


def test_scales_are_kept(parts: list[Path]) -> None:
    first, last = (Manifest.read(folder) for folder in (parts[0], parts[-1]))
    assert first.features == last.features and list(last.splits) == ["train"]


def test_the_last_state_is_that_of_all_days(config: DataConfig, parts: list[Path]) -> None:
    for rate in config.rates:
        whole, last = (read_state(folder / "rates" / rate.file) for folder in (config.folder, parts[-1]))
        assert whole.moment == last.moment
        cells = ["u1", "i3"][-len(rate.by) :]
        np.testing.assert_allclose(whole.values(cells), last.values(cells), rtol=1e-9)


def test_an_item_that_is_sold_no_more_stays(config: DataConfig, parts: list[Path], tmp_path: Path) -> None:
    assert config.tables is not None
    items = pd.read_csv(str(config.tables.files["items"].path), dtype=str)
    items[items.item_id != "i3"].to_csv(tmp_path / "items.csv", index=False)
    tables = config.tables.model_copy(update={"items": tmp_path / "items.csv"})
    own = config.model_copy(update={"folder": tmp_path / "part", "tables": tables, "scales_from": parts[0]})
    manifest = prepare(own, part=Part(CUTS[0], CUTS[1], parts[0]))
    table = pq.read_table(tmp_path / "part" / "items.parquet").to_pylist()
    before = pq.read_table(parts[0] / "items.parquet").to_pylist()
    assert [row["item_id"] for row in table[: len(before)]] == [row["item_id"] for row in before]
    assert next(row["text"] for row in table if row["item_id"] == "i3") == "bread number 3"
    assert manifest.dropped["impressions of an item_id that items lacks"]


def test_a_day_may_lack_a_kind_of_event_that_there_was(config: DataConfig, parts: list[Path], tmp_path: Path) -> None:
    assert config.tables is not None
    events = pd.read_csv(str(config.tables.files["events"].path), dtype=str)
    events.loc[events.timestamp < "2026-01-02", "kind"] = "view"
    events[events.timestamp < "2026-01-03"].to_csv(tmp_path / "events.csv", index=False)
    history = config.history_sections[0].model_copy(update={"kinds": ["return"]})
    changes = {"tables": config.tables.model_copy(update={"events": tmp_path / "events.csv"}), "history": history}
    own = config.model_copy(update={**changes, "folder": tmp_path / "part", "scales_from": parts[0]})
    assert prepare(own, part=Part(CUTS[0], CUTS[1], parts[0])).counts["requests"]
    with pytest.raises(UserError, match="has no event of kind 'return'"):
        prepare(own.model_copy(update={"scales_from": None}), part=Part(None, CUTS[0]))


def test_days_without_impressions_are_refused(config: DataConfig, tmp_path: Path) -> None:
    own = config.model_copy(update={"folder": tmp_path / "part"})
    with pytest.raises(UserError, match="no impression from 2027-01-01 before 2027-01-02"):
        prepare(own, part=Part(datetime(2027, 1, 1), datetime(2027, 1, 1) + timedelta(days=1)))
    assert not (tmp_path / "part").exists()


def test_scales_of_other_features_are_refused(config: DataConfig, parts: list[Path], tmp_path: Path) -> None:
    changes = {"folder": tmp_path / "part", "features": config.features[1:], "scales_from": parts[0]}
    with pytest.raises(UserError, match=r"data.scales_from: .* other data.features"):
        prepare(config.model_copy(update=changes), part=Part(None, CUTS[0]))
