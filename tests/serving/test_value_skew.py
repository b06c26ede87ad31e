"""No skew between training and serving: a column tells the same in prepare, score, recommend, frames and JSON."""

import json
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from equipoise.configs.features import FeatureConfig
from equipoise.configs.schema import DataConfig, HistoryConfig, PromptConfig, SplitConfig, TablesConfig
from equipoise.data.manifest import Manifest
from equipoise.data.prepare.slates import prepare
from equipoise.data.requests.catalogue import prepared_catalogue
from equipoise.data.requests.files import find_request_files
from equipoise.data.requests.forms import form_of
from equipoise.data.requests.table import open_requests, request_connection
from equipoise.data.values import plain_value
from equipoise.serving.frames import RequestRows, number_of
from equipoise.serving.items import KnownItems
from equipoise.serving.limits import Limits
from equipoise.serving.omega import OperatingPoint
from equipoise.serving.request_error import RequestError
from equipoise.serving.requests import RequestReader
from equipoise.serving.values import sequence

MOMENTS = [
    datetime(2025, 3, 1, 12, 30, tzinfo=UTC),
    datetime(2025, 3, 2, tzinfo=UTC),
    datetime(2025, 3, 3, 1, tzinfo=UTC),
]
TYPES: dict[str, pa.Array] = {
    "decimal": pa.array([Decimal("2.00"), Decimal("8.20"), Decimal("-0.05")], pa.decimal128(8, 2)),
    "whole decimal": pa.array([Decimal(2), Decimal(8), Decimal(1)], pa.decimal128(20, 0)),
    "float64": pa.array([2.0, 8.2, 1e7]),
    "float32": pa.array(np.array([2, 8.2, 0.1], np.float32)),
    "float16": pa.array(np.array([2, 8.2, 0.1], np.float16)),
    "int64": pa.array([3, 10**17 + 1, -4]),
    "uint8": pa.array([3, 4, 5], pa.uint8()),
    "bool": pa.array([True, False, True]),
    "text": pa.array(["1.10", "3E2", "007"]),
    "dictionary": pa.array(["red", "blue", "green"]).dictionary_encode(),
    "binary": pa.array([b"red", "blé".encode(), b"\xff"]),
    "date": pa.array([date(2025, 3, 1), date(2025, 3, 2), date(2025, 3, 3)]),
    "uuid": pa.array([uuid.UUID(int=n).bytes for n in (1, 2, 3)], pa.uuid()),
    "list": pa.array([["a", "b"], ["c"], ["a"]]),
    **{
        f"timestamp {unit} {zone}": pa.array(MOMENTS, pa.timestamp("us", tz="UTC")).cast(pa.timestamp(unit, tz=zone))
        for unit in ("s", "us", "ns")
        for zone in ("UTC", "Asia/Tokyo")
    },
    "naive timestamp": pa.array([moment.replace(tzinfo=None) for moment in MOMENTS], pa.timestamp("ns")),
}  # fmt: skip
ITEMS, USERS = ["a", "b", "c"], ["u0", "u1", "u2"]
REQUESTS = 9


def _tables(folder: Path, column: pa.Array, ending: str) -> TablesConfig:
    """Three items, three users and nine requests of all items, each table with the column."""
    turns = [(request + place) % 3 for request in range(REQUESTS) for place in range(3)]
    impressions = {
        "request_id": [f"r{request}" for request in range(REQUESTS) for _ in ITEMS],
        "timestamp": [f"2025-03-0{1 + request} 10:00:00" for request in range(REQUESTS) for _ in ITEMS],
        "user_id": [USERS[request % 3] for request in range(REQUESTS) for _ in ITEMS],
        "item_id": ITEMS * REQUESTS,
        "click": [int(turn == 0) for turn in turns],
        "conversion": [int(turn == 0 and place % 4 == 0) for place, turn in enumerate(turns)],
        "deal": column.take(pa.array(turns)),
    }
    tables: dict[str, dict[str, Any]] = {
        "impressions": impressions,
        "items": {"item_id": ITEMS, "title": ["apples", "bread", "cheese"], "size": column},
        "users": {"user_id": USERS, "mark": column},
    }
    paths = {}
    for name, columns in tables.items():
        table = pa.table(columns)
        paths[name] = folder / f"{name}.{ending}"
        if ending == "parquet":
            pq.write_table(table, paths[name])
        elif ending == "jsonl":
            paths[name].write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
        else:
            rows = [",".join(map(str, row.values())) for row in table.to_pylist()]
            paths[name].write_text("\n".join([",".join(table.column_names), *rows]) + "\n")
    return TablesConfig(**paths)


def _config(folder: Path, tables: TablesConfig, features: tuple[str, ...] = ("size", "deal", "mark")) -> DataConfig:
    return DataConfig(
        folder=folder / "prepared",
        tables=tables,
        split=SplitConfig(valid_from="2025-03-06", test_from="2025-03-08"),
        history=HistoryConfig(max_events=0),
        prompt=PromptConfig(prefix=["mark {mark}"], item=["{title}", "size {size}"], context=["deal {deal}"]),
        features=[FeatureConfig(name=name, scale="category") for name in features],
    )


def _requests(folder: Path, column: pa.Array) -> Path:
    """The same requests as a file, a row each, the column stored as in the tables."""
    turns = [[(request + place) % 3 for place in range(3)] for request in range(REQUESTS)]
    deals = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    deals = deals.storage.cast(pa.binary()) if isinstance(column.type, pa.UuidType) else deals
    values = deals.take(pa.array([turn for each in turns for turn in each]))
    table = {
        "request_id": [f"r{request}" for request in range(REQUESTS)],
        "user_id": [USERS[request % 3] for request in range(REQUESTS)],
        "item_id": [ITEMS] * REQUESTS,
        "mark": column.take(pa.array([request % 3 for request in range(REQUESTS)])),
        "deal": pa.ListArray.from_arrays(pa.array(range(0, 3 * REQUESTS + 1, 3), pa.int32()), values),
    }
    if isinstance(column.type, pa.UuidType):  # Arrow has no lists of them that Parquet writes
        del table["deal"]
    path = folder / "requests.parquet"
    pq.write_table(pa.table(table), path)
    return path


Told = dict[str, tuple[str, list[str], list[list[float]]]]


def _prepared(config: DataConfig, manifest: Manifest) -> Told:
    told: Told = {}
    for split in manifest.splits.values():
        for file in split.files:
            for row in pq.read_table(config.folder / file).to_pylist():
                codes = [[s.read(v) for v in row[f"feature_{name}"]] for name, s in manifest.features.items()]
                told[row["request_id"]] = (row["prefix"], row["context"], codes)
    return told


def _reader(config: DataConfig, manifest: Manifest) -> RequestReader:
    catalogue = prepared_catalogue(config.folder, ["size"])
    numbers = list(range(len(catalogue)))
    ids = catalogue.ids(np.array(numbers)).to_pylist()
    values = catalogue.values("size", numbers, manifest.features["size"])
    known = KnownItems(
        dict(zip(ids, catalogue.texts(numbers), strict=True)), {}, {"size": dict(zip(ids, values, strict=True))}
    )
    return RequestReader(config.prompt, config.history, known, OperatingPoint({}, {}), Limits(), manifest.features)


def _read(reader: RequestReader, request: dict[str, Any]) -> tuple[str, list[str], list[list[float]]]:
    read = reader.read(request)
    features = np.array([candidate.features for candidate in read.candidates]).T.tolist()
    return read.prefix, [candidate.context for candidate in read.candidates], features


@pytest.mark.parametrize("name", TYPES)
def test_every_type_of_a_column_tells_the_same_everywhere(tmp_path: Path, name: str) -> None:
    column = TYPES[name]
    # In files of requests a list is one value per candidate, so that a list of the shopper's is no category.
    features = ("size",) if name == "list" else ("size", "deal", "mark")
    config = _config(tmp_path, _tables(tmp_path, column, "parquet"), features)
    manifest = prepare(config)
    expected = _prepared(config, manifest)
    assert all(None not in codes for _, _, features in expected.values() for codes in features)
    path = _requests(tmp_path, column)
    has_deals = "deal" in pq.read_schema(path).names
    compared = slice(0, 2) if has_deals else slice(0, 1)

    file = find_request_files(path)[0]
    form = form_of(file, prepared_catalogue(config.folder, ["size"]), config, manifest.features)
    batch = pq.read_table(path, columns=form.columns).combine_chunks().to_batches()[0]
    for request in (request for some in form.requests(batch, 0) for request in some):
        assert (request.prefix, request.contexts)[compared] == expected[request.request_id][compared]
        if has_deals:
            assert request.features is not None
            assert request.features.T.tolist() == expected[request.request_id][2]

    reader = _reader(config, manifest)
    with request_connection() as con:
        table = open_requests(con, path)
        maker = RequestRows(reader, table.kinds, table.per_candidate)
        for rows in table.requests(maker.columns):
            found = _read(reader, maker.request(rows))
            assert found[compared] == expected[rows[0]["request_id"]][compared]
            assert not has_deals or found[2] == expected[rows[0]["request_id"]][2]

    values = [
        json.loads(json.dumps(value if isinstance(value, list) else plain_value(value))) for value in _cells(column)
    ]
    for number in range(REQUESTS):
        deals = [
            {"item_id": item, "context": {"deal": values[(number + place) % 3]}} for place, item in enumerate(ITEMS)
        ]
        body = {"user": {"mark": values[number % 3]}, "candidates": deals}
        assert _read(reader, body) == expected[f"r{number}"]


def _cells(column: pa.Array) -> list[Any]:
    """What a caller holds: of 16 and 32 bits NumPy's numbers."""
    short = pa.types.is_float32(column.type) or pa.types.is_float16(column.type)
    if short:
        return list(column.to_numpy(zero_copy_only=False))
    return (
        column.cast(pa.timestamp("us", column.type.tz)).to_pylist()
        if pa.types.is_timestamp(column.type)
        else column.to_pylist()
    )


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@pytest.mark.parametrize(
    "cells", [["1.10", "3E2", "007"], ["true", "2025-03-01", "1_0"], ["03-04-2025", "1.1", "1.10"]]
)
def test_texts_of_csv_and_json_are_told_as_they_are_written(tmp_path: Path, ending: str, cells: list[str]) -> None:
    config = _config(tmp_path, _tables(tmp_path, pa.array(cells), ending))
    manifest = prepare(config)
    assert set(manifest.features["size"].values) == set(cells)
    expected, reader = _prepared(config, manifest), _reader(config, manifest)
    assert expected["r0"][:2] == (f"mark {cells[0]}", [f"deal {cell}" for cell in cells])
    candidates = [{"item_id": item, "context": {"deal": cell}} for item, cell in zip(ITEMS, cells, strict=True)]
    assert _read(reader, {"user": {"mark": cells[0]}, "candidates": candidates}) == expected["r0"]
    texts = prepared_catalogue(config.folder).texts([0, 1, 2])
    assert texts == [f"{t}, size {cell}" for t, cell in zip(("apples", "bread", "cheese"), cells, strict=True)]


def test_one_id_is_one_whether_json_holds_it_as_text_or_number(tmp_path: Path) -> None:
    tables = _tables(tmp_path, pa.array(["x", "y", "z"]), "jsonl")
    lines: Callable[[Path], list[dict]] = lambda path: [json.loads(line) for line in path.read_text().splitlines()]  # noqa: E731
    number = {"a": 103, "b": 104, "c": 105}
    rows = [{**row, "item_id": number[row["item_id"]]} for row in lines(tables.items)]
    tables.items.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [
        {**row, "item_id": str(number[row["item_id"]]) if place % 2 else number[row["item_id"]]}
        for place, row in enumerate(lines(tables.impressions))
    ]
    tables.impressions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest = prepare(_config(tmp_path, tables))
    assert manifest.counts["items"] == 3 and not manifest.dropped


def test_numbers_of_csv_files_are_numbers_and_a_series_is_a_list() -> None:
    assert [number_of(cell) for cell in ("3.5", Decimal("3.50"), np.float32(8.2), 7, "much", None, [1, 2])] == [
        3.5, 3.5, 8.2, 7, "much", None, [1, 2],
    ]  # fmt: skip
    assert sequence("history", pd.Series(["tea", "bread"])) == ["tea", "bread"]
    with pytest.raises(RequestError, match="give a list"):
        sequence("history", "tea")
