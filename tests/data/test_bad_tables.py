"""Every bad input has its one sentence, which names the place and the way out, and leaves nothing behind."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from equipoise.common.errors import UserError
from equipoise.configs.features import FeatureConfig
from equipoise.configs.schema import DataConfig, PromptConfig, SplitConfig, TablesConfig
from equipoise.data.prepare.headers import check_headers
from equipoise.data.prepare.slates import prepare

Make = Callable[..., DataConfig]


def refuse(config: DataConfig, *said: str) -> None:
    """Assert that `prepare` refuses with one sentence that has all these parts, and writes nothing."""
    with pytest.raises(UserError) as caught:
        prepare(config)
    sentence = str(caught.value)
    for part in said:
        assert part in sentence, sentence
    assert "\n" not in sentence and ": " in sentence
    assert not config.folder.exists() and not list(config.folder.parent.glob("prepared*"))


def spoil(rows: dict, table: str, row: int, **values: Any) -> dict:
    rows[table][row] |= values
    return rows


def test_missing_file(rows: dict, make_config: Make, tmp_path: Path) -> None:
    tables = make_config(rows).tables
    assert tables is not None
    gone = TablesConfig(impressions=tmp_path / "gone.csv", items=tables.items)
    refuse(make_config(rows, tables=gone), "data.tables.impressions", "gone.csv", "does not exist")


@pytest.mark.parametrize("path", ["a" * 5000, "\x00.csv", "a" * 300 + "/b.csv"])
def test_a_name_that_no_file_system_takes(rows: dict, make_config: Make, path: str) -> None:
    config = make_config(rows)
    tables = config.tables.model_copy(update={"items": Path(path)})
    config = config.model_copy(update={"tables": tables})
    refuse(config, "data.tables.items", "correct the path")
    config = config.model_copy(update={"tables": TablesConfig(impressions=Path(path), items=Path(path))})
    with nullcontext() if "\x00" in path else pytest.raises(UserError, match=r"cannot be read .*: correct the path"):
        assert check_headers(config, {}, ())


def test_a_blank_path_is_refused() -> None:
    with pytest.raises(ValidationError, match="items is blank: name a file"):
        TablesConfig(impressions=Path("a.csv"), items=Path(" "))


def test_unknown_ending(rows: dict, make_config: Make, tmp_path: Path) -> None:
    sheet = tmp_path / "items.xlsx"
    sheet.write_bytes(b"PK")
    tables = make_config(rows).tables
    assert tables is not None
    refuse(make_config(rows, tables=tables.model_copy(update={"items": sheet})), "items.xlsx", "unknown ending", ".csv")


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_unreadable_file(rows: dict, make_config: Make, ending: str) -> None:
    config = make_config(rows, ending)
    assert config.tables is not None
    config.tables.items.write_bytes(b"\x00 no such thing {")
    refuse(config, f"items.{ending}", "cannot be read")


def test_ragged_rows(rows: dict, make_config: Make) -> None:
    config = make_config(rows)
    assert config.tables is not None
    with config.tables.impressions.open("a") as file:
        file.write("r9,2024-03-02,u1,a,0,0,1,surplus,surplus\n")
    refuse(config, "impressions.csv", "cannot be read", "correct the file")


def test_missing_column(rows: dict, make_config: Make) -> None:
    for row in rows["impressions"]:
        row["clicks"] = row.pop("click")
    refuse(make_config(rows), "impressions.csv", "data.tables.impressions", "no column 'click'", "mean 'clicks'")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompt": PromptConfig(item=["{titel}"])}, ["items.csv", "'titel'", "data.prompt.item", "mean 'title'"]),
        ({"prompt": PromptConfig(context=["{bougt}"])}, ["'bougt'", "data.prompt.context", "mean 'bought'"]),
        ({"prompt": PromptConfig(prefix=["{agee}"])}, ["'agee'", "data.prompt.prefix", "mean 'age'"]),
        ({"prompt": PromptConfig(prefix=["{bought}"])}, ["several values of bought", "data.prompt.context"]),
        ({"prompt": PromptConfig(item=["{title|loud}"])}, ["'{title|loud}'", "unknown filter"]),
        ({"prompt": PromptConfig(item=["{title|count}"])}, ["'{title|count}'", "not a number"]),
        ({"fields": ["price"]}, ["impressions.csv", "'price'", "data.fields"]),
        ({"fields": ["user_id"]}, ["user_id 'u1'", "not a number", "data.fields"]),
        ({"user_groups": ["income"]}, ["users.csv", "'income'", "data.user_groups"]),
        ({"split": SplitConfig(column="fold")}, ["'fold'", "data.split.column"]),
        ({"split": SplitConfig(column="item_id")}, ["item_id 'b'", "train, valid or test"]),
        ({"split": SplitConfig(valid_from="2030-01-01", test_from="2031-01-01")}, ["empty valid split", "valid_from"]),
        ({"split": SplitConfig(valid_from="2020-01-01", test_from="2024-03-01")}, ["empty train split"]),
    ],
)
def test_names_in_the_config(rows: dict, make_config: Make, changes: dict, said: list[str]) -> None:
    refuse(make_config(rows, **changes), *said)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_bad_timestamp(rows: dict, make_config: Make, ending: str) -> None:
    spoil(rows, "impressions", 3, timestamp="yesterday")
    refuse(make_config(rows, ending), f"impressions.{ending}", "timestamp 'yesterday' in row 4", "ISO 8601")


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_date_of_two_readings_is_asked_about(rows: dict, make_config: Make, ending: str) -> None:
    for row in rows["impressions"]:
        year, month, day = row["timestamp"].split(" ")[0].split("-")
        row["timestamp"] = f"{month}-{day}-{year}"
    refuse(make_config(rows, ending), f"impressions.{ending}", "timestamp '01-01-2024' in row 1", "ISO 8601")


def _with_moments(config: DataConfig, moments: list[int]) -> None:
    """Give the requests of impressions.parquet these moments, in seconds since 1970."""
    path = str(config.tables.impressions)
    table = pq.read_table(path)
    column = pa.array([moments[int(request[1:]) - 1] for request in table["request_id"].to_pylist()], pa.timestamp("s"))
    pq.write_table(table.set_column(table.column_names.index("timestamp"), "timestamp", column), path)


@pytest.mark.parametrize("moment", [1_740_000_000_000, -90_000_000_000])
def test_a_moment_of_another_unit_is_named(rows: dict, make_config: Make, moment: int) -> None:
    config = make_config(rows, "parquet")
    _with_moments(config, [moment] * 5)
    refuse(config, "impressions.parquet", "timestamp", "in row 1", "in the years 1900 to 2199")


def test_moments_of_1970_are_told(rows: dict, make_config: Make) -> None:
    config = make_config(rows, "parquet", split=SplitConfig(valid_fraction=0.2, test_fraction=0.2))
    _with_moments(config, [1_740_000 + number for number in range(5)])
    assert any("is in 1970 (the last one is 1970-01-21 03:20:04)" in note for note in prepare(config).notes)


def test_bad_event_timestamp_and_numbers(rows: dict, make_config: Make) -> None:
    spoil(rows, "events", 2, timestamp="2024-13-01")
    refuse(make_config(rows), "events.csv", "timestamp '2024-13-01' in row 3")
    for row in rows["impressions"]:
        row["timestamp"] = 1704067200
    refuse(make_config(rows, "parquet"), "timestamp '1704067200' in row 1", "ISO 8601")


@pytest.mark.parametrize(("label", "value"), [("click", 2), ("conversion", -1), ("click", 7)])
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_bad_label(rows: dict, make_config: Make, label: str, value: int, ending: str) -> None:
    spoil(rows, "impressions", 1, **{label: value})
    refuse(make_config(rows, ending), f"impressions.{ending}", f"{label} '{value}' in row 2", "0 or 1")


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"prompt": PromptConfig(context=["clicked {click}"])}, "data.prompt.context names 'click'"),
        ({"prompt": PromptConfig(prefix=["{conversion}"])}, "data.prompt.prefix names 'conversion'"),
        ({"features": [FeatureConfig(name="click", scale="category")]}, "data.features names 'click'"),
    ],
)
def test_a_label_is_told_to_no_model(rows: dict, make_config: Make, changes: dict, setting: str) -> None:
    refuse(make_config(rows, **changes), setting, "which an objective learns", "leave it out")


def test_duplicates(rows: dict, make_config: Make) -> None:
    for table, key in (("impressions", "request_id 'r1', item_id 'b'"), ("items", "item_id 'a'"), ("users", "'u1'")):
        spoiled = rows | {table: [*rows[table], rows[table][0]]}
        refuse(make_config(spoiled), f"{table}.csv", key, "2 times")


@pytest.mark.parametrize(("column", "value"), [("user_id", "u2"), ("timestamp", "2024-01-05 00:00:00")])
def test_a_request_is_one_user_at_one_moment(rows: dict, make_config: Make, column: str, value: str) -> None:
    refuse(make_config(spoil(rows, "impressions", 0, **{column: value})), f"several values of {column}", "request 'r1'")


def test_a_request_has_one_split(rows: dict, make_config: Make) -> None:
    for place, row in enumerate(rows["impressions"]):
        row["fold"] = ("train", "valid", "test")[place % 3]
    refuse(make_config(rows, split=SplitConfig(column="fold")), "several values of fold", "request 'r1'")


@pytest.mark.parametrize(("label", "value"), [("click", 0), ("click", 1), ("conversion", 0)])
def test_constant_labels(rows: dict, make_config: Make, label: str, value: int) -> None:
    for row in rows["impressions"]:
        row[label] = value
    refuse(make_config(rows), f"{label} = {value} in every row of the train split", "constant labels")


def test_no_item_has_a_text(rows: dict, make_config: Make) -> None:
    for row in rows["items"]:
        row["title"] = None
    refuse(make_config(rows, prompt=PromptConfig()), "items.csv", "no item a text", "data.prompt.item")


def test_items_that_never_meet(rows: dict, make_config: Make) -> None:
    for row in rows["items"]:
        row["item_id"] = f"sku-{row['item_id']}"
    refuse(make_config(rows), "share no item_id")


def test_empty_table(rows: dict, make_config: Make) -> None:
    for row in rows["impressions"]:
        row["click"] = None
    refuse(make_config(rows, "jsonl"), "impressions.jsonl", "no usable row")
