"""Tables under other names and in other spellings give the slates of the plain ones; what is unclear is asked about."""

import csv
import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from equipoise.common.errors import UserError
from equipoise.configs.schema import DataConfig, PromptConfig
from equipoise.configs.tables import TableFile, TablesConfig, YesNoWords
from equipoise.data.prepare.formats import format_sql
from equipoise.data.prepare.slates import prepare

Make = Callable[..., DataConfig]
GERMAN = {"request_id": "sitzung", "timestamp": "zeit", "user_id": "kunde", "item_id": "sku", "click": "geklickt"}
PRICES = {"a": "3.49", "b": "1234.50", "c": "762", "d": "0.5"}
SPELLED = {
    "german": {"3.49": "3,49 €", "1234.50": "1.234,50 €", "762": "762 €", "0.5": "0,5"},
    "french": {"3.49": "3,49", "1234.50": "1\u202f234,50", "762": "762 €", "0.5": "0,5 €"},
    "swiss": {"3.49": "CHF 3.49", "1234.50": "1’234.50", "762": "762.-", "0.5": "Fr. 0.5"},
}


def _write(path: Path, rows: list[dict[str, Any]], encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=";")
        writer.writeheader()
        writer.writerows(rows)


def _slates(config: DataConfig) -> dict[str, Any]:
    manifest = prepare(config)
    files = [config.folder / name for split in manifest.splits.values() for name in split.files]
    tables = pa.concat_tables([pq.read_table(file) for file in files])
    slates = json.loads(json.dumps(tables.to_pylist(), default=str).replace("NaN", "null"))  # NaN equals nothing
    return {"slates": slates, "items": pq.read_table(config.folder / "items.parquet")["text"].to_pylist()}


def _priced(rows: dict) -> dict:
    for row in rows["items"]:
        row |= {"title": f"Käse {row['title']}", "price": PRICES[row["item_id"]]}
    return rows


def _prompt(**item: Any) -> PromptConfig:
    return PromptConfig(prefix=["age {age}"], item=["{title}", "price {price}"], context=["bought {bought|count}"])


def _spoken(rows: dict, folder: Path, number: str, moment: Callable[[datetime], str], yes_no: tuple[str, str]) -> None:
    impressions = []
    for row in rows["impressions"]:
        labels = {"geklickt": yes_no[row["click"]], "conversion": yes_no[row["conversion"]]}
        stamp = moment(datetime.fromisoformat(row["timestamp"]).replace(tzinfo=UTC))
        named = {theirs: row[ours] for ours, theirs in GERMAN.items() if ours not in ("timestamp", "click")}
        impressions.append({**named, "zeit": stamp, **labels, "bought": row["bought"]})
    _write(folder / "logs" / "day=1" / "a.csv", impressions[:5], "cp1252")
    # The second day's writer has another order of columns.
    _write(folder / "logs" / "day=2" / "b.csv", [dict(reversed(row.items())) for row in impressions[5:]], "cp1252")
    items = [{**row, "price": SPELLED[number][row["price"]]} for row in rows["items"]]
    _write(folder / "items.csv", items, "utf-8" if number == "french" else "cp1252")


@pytest.mark.parametrize("number", ["german", "french", "swiss"])
def test_another_spelling_gives_the_same_slates(rows: dict, make_config: Make, tmp_path: Path, number: str) -> None:
    plain = make_config(_priced(rows), prompt=_prompt())
    expected = _slates(plain)
    assert any("1234.50" in text for text in expected["items"])
    berlin = ZoneInfo("Europe/Berlin")
    moments = {
        "german": ("%d.%m.%Y %H:%M", "Europe/Berlin", lambda t: t.astimezone(berlin).strftime("%d.%m.%Y %H:%M")),
        "french": ("epoch_milliseconds", "UTC", lambda t: str(int(t.timestamp() * 1000))),
        "swiss": ("%m/%d/%Y %I:%M %p", "UTC", lambda t: t.strftime("%m/%d/%Y %I:%M %p")),
    }
    form, zone, moment = moments[number]
    words: Any = {"german": "yes_no", "french": {"yes": ["cliqué"], "no": [""]}, "swiss": "yes_no"}[number]
    spoken = {"german": ("nein", "Ja"), "french": ("", "Cliqué"), "swiss": ("no", "Sì")}[number]
    _spoken(rows, tmp_path, number, moment, spoken)
    impressions = {
        "path": str(tmp_path / "logs" / "*" / "*.csv") if number == "german" else str(tmp_path / "logs"),
        "columns": GERMAN,
        "formats": {"timestamp": form, "click": words, "conversion": words},
        "timezone": zone,
        "encoding": "latin-1",
    }
    items = {"path": str(tmp_path / "items.csv"), "formats": {"price": number}}
    if number != "french":
        items["encoding"] = "cp1252"
    assert plain.tables is not None
    tables = TablesConfig(impressions=impressions, items=items, users=plain.tables.users, events=plain.tables.events)
    assert _slates(plain.model_copy(update={"tables": tables, "folder": tmp_path / number})) == expected


READINGS = {
    "german": {
        "€ 12,-": "12", "EUR 1.234.567,8": "1234567.8", "2.972": "2972", "−5,5": "-5.5", "5,5-": "-5.5", ",5": "0.5",
        "1.23": None, "12.34,5": None, "12 apples": None, "1.23.456": None, "": None,
    },
    "english": {"$1,234.56": "1234.56", "₹ 1,23,456.78": "123456.78", "(1,234.50)": "-1234.50", "-$5": "-5"},
    "polish": {"1 234,56 zł": "1234.56", "1\u00a0234": "1234"},
    "swiss": {"1'234.50 Fr.": "1234.50"},
    "yes_no": {"Ja": True, "nein": False, "ДА": True, "1.0": None, "vielleicht": None, "はい": True},
    "epoch_seconds": {"1714567890.25": datetime(2024, 5, 1, 12, 51, 30, 250000), "x": None},
    "%d.%m.%Y %H:%M": {"1.2.2026 9:05": datetime(2026, 2, 1, 9, 5), "13/02/2026 9:05": None},
    "%Y-%m-%dT%H:%M:%S%z": {"2026-01-01T10:00:00+0200": datetime(2026, 1, 1, 8)},
}  # fmt: skip


@pytest.mark.parametrize("form", READINGS)
def test_what_a_format_reads(form: str) -> None:
    with duckdb.connect() as con:
        for text, expected in READINGS[form].items():
            query = f"SELECT {format_sql('x', 'VARCHAR', form)} FROM (SELECT CAST(? AS VARCHAR) AS x)"
            assert con.execute(query, [text]).fetchall() == [(expected,)], text


def test_words_of_yaml_and_numbers_with_a_point_are_words(tmp_path: Path) -> None:
    words = YesNoWords.model_validate({True: ["bought"], False: [False, ""]})
    assert words.yes == ["bought"] and {"no", "false", ""} <= set(words.no)
    with duckdb.connect() as con:
        read = format_sql("x", "DOUBLE", "yes_no")
        assert con.execute(f"SELECT {read} FROM (SELECT 1.0::DOUBLE AS x)").fetchone() == (True,)


def _one(rows: dict, make_config: Make, table: str, **mapping: Any) -> DataConfig:
    config = make_config(rows, prompt=_prompt())
    assert config.tables is not None
    mapped = TableFile(path=str(getattr(config.tables, table)), **mapping)
    return config.model_copy(update={"tables": config.tables.model_copy(update={table: mapped})})


def _refused(config: DataConfig, *words: str) -> None:
    with pytest.raises(UserError) as fault:
        prepare(config)
    for word in words:
        assert word in str(fault.value), str(fault.value)
    assert not config.folder.exists()


def test_a_value_that_a_format_does_not_read_is_named(rows: dict, make_config: Make) -> None:
    _priced(rows)["items"][2]["price"] = "7 Stück"
    config = _one(rows, make_config, "items", formats={"price": "german"})
    _refused(config, "items.csv (data.tables.items) has price '3.49' in row 1", "formats.price (german)")
    rows["items"][0]["price"] = "3,49"
    rows["items"][1]["price"] = "1.234,50"
    _refused(_one(rows, make_config, "items", formats={"price": "german"}), "'7 Stück' in row 3", "1.234,50")


def test_an_amount_of_two_readings_is_asked_about(rows: dict, make_config: Make) -> None:
    for row, price in zip(_priced(rows)["items"], ("2.972", "762", "429", ""), strict=True):
        row["price"] = price
    features = {"features": ["price"]}
    _refused(make_config(rows, **features), "price '2.972' in row 1 next to '762': is it 2972", "{price: german}")
    prompt = PromptConfig(item=["{title}", "{price|money}"])
    _refused(make_config(rows, prompt=prompt), "is it 2972 or a number with three decimals?")
    for form, expected in (("german", 2972.0), ("plain", 2.972)):
        config = _one(rows, make_config, "items", formats={"price": form})
        read = _slates(config.model_copy(update={"features": make_config(rows, **features).features}))
        assert expected in {value for slate in read["slates"] for value in slate["feature_price"]}
    rows["items"][3]["price"] = "0.5"  # which settles it
    prepare(make_config(rows, **features))


def test_missing_columns_are_told_at_once(rows: dict, make_config: Make, tmp_path: Path) -> None:
    for row in rows["impressions"]:
        row["clicks"] = row.pop("click")
        row["session"] = row.pop("request_id")
    for row in rows["items"]:
        row["name"] = row.pop("title")
    _refused(
        make_config(rows),
        "impressions.csv (data.tables.impressions) has no columns 'request_id', 'click' (without it",
        "(did you mean 'clicks'?)",
        "items.csv (data.tables.items) has no column 'title'",
        "data.tables.TABLE.columns",
    )
    config = _one(rows, make_config, "impressions", columns={"click": "klick", "request_id": "sesion"})
    _refused(config, "'klick', which data.tables.impressions.columns.click", "(did you mean 'session'?)")
    _refused(_one(rows, make_config, "impressions", formats={"clack": "yes_no"}), "no column 'clack'")


def test_columns_that_are_joined_name_requests(rows: dict, make_config: Make) -> None:
    expected = _slates(make_config(_priced(rows), prompt=_prompt()))
    for row in rows["impressions"]:
        del row["request_id"]
    config = _one(rows, make_config, "impressions", columns={"request_id": ["user_id", "timestamp"]})
    found = _slates(config)
    assert found["slates"][0]["request_id"] == "u1|2024-01-01 00:00:00"
    drop = [{k: v for k, v in slate.items() if k != "request_id"} for slate in found["slates"]]
    assert drop == [{k: v for k, v in slate.items() if k != "request_id"} for slate in expected["slates"]]


def test_queries_and_places_elsewhere(rows: dict, make_config: Make, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    plain = make_config(_priced(rows), prompt=_prompt())
    assert plain.tables is not None
    expected = _slates(plain)
    with duckdb.connect(str(tmp_path / "shop.db")) as con:
        con.execute(f"CREATE TABLE logs AS FROM read_csv('{plain.tables.impressions}', all_varchar=true)")
    memory = fsspec.filesystem("memory")
    memory.pipe("/shop/items/part-0.csv.gz", gzip.compress(Path(str(plain.tables.items)).read_bytes()))
    tables = TablesConfig(
        impressions={"query": "SELECT * FROM shop.logs;", "attach": {"shop": str(tmp_path / "shop.db")}},
        items="memory://shop/items",
        users=plain.tables.users,
        events=plain.tables.events,
    )
    try:
        assert _slates(plain.model_copy(update={"tables": tables, "folder": tmp_path / "again"})) == expected
    finally:
        memory.rm("/shop", recursive=True)
    for mapping, words in (
        ({"query": "SELECT * FROM nothing"}, ("data.tables.items.query cannot be answered", "nothing")),
        (
            {"query": "SELECT 1", "attach": {"s": "postgres:dbname=x"}},
            ("attach.s cannot be opened", "INSTALL postgres"),
        ),
        ({"path": "memory://shop/gone"}, ("memory://shop/gone is no file",)),
        ({"path": "nowhere://shop/x.csv"}, ("nowhere://", "no package is known")),
    ):
        changed = plain.tables.model_copy(update={"items": TableFile(**mapping)})
        config = plain.model_copy(update={"tables": changed, "folder": tmp_path / "none"})
        _refused(config, *words)


def test_another_encoding_is_named(rows: dict, make_config: Make, tmp_path: Path) -> None:
    _priced(rows)
    config = make_config(rows, prompt=_prompt())
    _write(tmp_path / "items.csv", rows["items"], "cp1252")
    _refused(config, "is not written in UTF-8 (line 2)", "encoding: cp1252")
    _refused(_one_of(config, encoding="utf-16"), "is not written in utf-16")
    pq.write_table(pa.table({"item_id": ["a"]}), tmp_path / "x.parquet")
    _refused(_one_of(config, path=str(tmp_path / "x.parquet"), encoding="latin-1"), "Parquet, which has no encoding")


def _one_of(config: DataConfig, **mapping: Any) -> DataConfig:
    assert config.tables is not None
    file = TableFile(**{"path": str(config.tables.items), **mapping})
    return config.model_copy(update={"tables": config.tables.model_copy(update={"items": file})})
