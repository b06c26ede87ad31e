"""One rule for the text of values: in SQL, on Arrow columns and value by value, whatever a column is stored as."""

import uuid
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from equipoise.data.prepare.files import columns_of, file_relation, quote
from equipoise.data.values import plain_column, plain_value, text_sql, value_text

RANDOM = np.random.default_rng(0)
NUMBERS = [
    0.0,
    -0.0,
    2.0,
    8.2,
    -1.5,
    1e-7,
    1e15,
    1e16,
    123456789.123,
    1e20,
    1e38,
    3e38,
    float("nan"),
    float("inf"),
    None,
]
NUMBERS += RANDOM.lognormal(0, 12, 200).round(3).tolist() + RANDOM.normal(0, 1e6, 100).tolist()
MOMENT = datetime(2025, 3, 1, 12, 30, 0, 500_000)
WHOLE_SECOND, MIDNIGHT = MOMENT.replace(microsecond=0), datetime(2025, 3, 1)
EAST = timezone(timedelta(hours=9))
COLUMNS: dict[str, pa.Array] = {
    "float64": pa.array(NUMBERS, pa.float64()),
    "float32": pa.array(np.array([np.nan if n is None else n for n in NUMBERS], np.float32)),
    "float16": pa.array(np.array([0, 2, 8.2, -1.5, 1e-3, np.nan, 60000], np.float16)),
    "decimal": pa.array([Decimal("2.00"), Decimal("8.20"), Decimal("-0.05"), None], pa.decimal128(8, 2)),
    "wide decimal": pa.array([Decimal("12345678901234567890.1234"), Decimal(2)], pa.decimal128(30, 4)),
    "whole decimal": pa.array([Decimal(103), None], pa.decimal128(8, 0)),
    "wide whole decimal": pa.array([Decimal(12345678901234567890), Decimal(7)], pa.decimal128(30, 0)),
    "int64": pa.array([2**63 - 1, -5, None], pa.int64()),
    "uint64": pa.array([2**64 - 1, 0], pa.uint64()),
    "int8": pa.array([3, None], pa.int8()),
    "bool": pa.array([True, False, None]),
    "text": pa.array(["1.10", "3E2", "007", "  padded ", "", "true", "2025-03-01", None]),
    "dictionary": pa.array(["a", "b", None]).dictionary_encode(),
    "binary": pa.array([b"tea", "thé".encode(), b"\xff\x00", None]),
    "date": pa.array([date(2025, 3, 1), None]),
    "time": pa.array([time(12, 30), time(1, 2, 3, 500), None]),
    "uuid": pa.array([uuid.UUID(int=2**100 + n).bytes for n in range(3)], pa.uuid()),
    "null": pa.nulls(2),
    "list": pa.array([["a", "b"], [], None, ["c", None]], pa.list_(pa.string())),
    "list of float32": pa.array([[8.2, 2.0]], pa.list_(pa.float32())),
    **{
        f"timestamp {unit} {zone}": pa.array([WHOLE_SECOND, MIDNIGHT, None]).cast(pa.timestamp(unit, tz=zone))
        for unit in ("s", "ms", "us", "ns")
        for zone in (None, "UTC", "Asia/Tokyo")
    },
    "timestamp with fractions": pa.array([MOMENT, MOMENT.replace(microsecond=120)], pa.timestamp("us", tz="UTC")),
}  # fmt: skip


def _by_sql(path: Path) -> list[str | None]:
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        relation = file_relation(con, path)
        kind = columns_of(con, relation)["value"]
        return [text for (text,) in con.execute(f"SELECT {text_sql(quote('value'), kind)} FROM {relation}").fetchall()]


@pytest.mark.parametrize("name", COLUMNS)
def test_sql_and_arrow_give_one_text(tmp_path: Path, name: str) -> None:
    pq.write_table(pa.table({"value": COLUMNS[name]}), tmp_path / "t.parquet")
    stored = pq.read_table(tmp_path / "t.parquet").column("value")
    is_list = pa.types.is_list(stored.type)  # of requests a list is one value per candidate
    values = stored.to_pylist() if is_list else plain_column(stored).to_pylist()
    if name == "list of float32":
        values = plain_column(stored).to_pylist()
    assert [value_text(value) for value in values] == _by_sql(tmp_path / "t.parquet")


PYTHON: list[tuple[Any, str | None]] = [
    (np.float32(8.2), "8.2"),
    (Decimal("2.00"), "2"),
    (Decimal("8.20"), "8.2"),
    (3.0, "3"),
    (np.int64(3), "3"),
    (True, "true"),
    (np.bool_(False), "false"),
    ("1.10", "1.10"),
    ("3E2", "3E2"),
    (b"tea", "tea"),
    (datetime(2025, 3, 1, 21, 30, tzinfo=EAST), "2025-03-01 12:30:00+00"),
    (datetime(2025, 3, 1, 12, 30, tzinfo=UTC), "2025-03-01 12:30:00+00"),
    (MOMENT, "2025-03-01 12:30:00.5"),
    (date(2025, 3, 1), "2025-03-01"),
    (["a", 2.0, None], "a, 2"),
    ([], None),
    (float("nan"), None),
    (float("inf"), None),
    (Decimal("NaN"), None),
    (None, None),
]


@pytest.mark.parametrize(("value", "text"), PYTHON)
def test_values_of_python_give_the_text_of_their_column(value: Any, text: str | None) -> None:
    assert value_text(value) == text
    assert value_text(plain_value(value)) == text


def test_lists_of_candidates_become_plain_one_by_one() -> None:
    column = pa.array([[8.2, 2.0], None, [], [None]], pa.list_(pa.float32()))
    assert plain_column(column).to_pylist() == [[8.2, 2.0], None, [], [None]]
    nested = pa.array([[["a", "b"], None], None], pa.list_(pa.list_(pa.string())))
    assert plain_column(nested).to_pylist() == [["a, b", None], None]
    sliced = pa.array([[1.0], [8.2, 2.0], [3.0]], pa.list_(pa.float32())).slice(1, 1)
    assert plain_column(sliced).to_pylist() == [[8.2, 2.0]]
