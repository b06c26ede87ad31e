"""Hand-made tables: five requests over two users and three items, small enough to check by eye."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from configs.schema import DataConfig, HistoryConfig, PromptConfig, SplitConfig, TablesConfig

Rows = dict[str, list[dict[str, Any]]]


def _impression(request: str, day: str, user: str, item: str, click: int, conversion: int, bought: int | None) -> dict:
    stamp = f"2024-{day} 00:00:00"
    labels = {"click": click, "conversion": conversion}
    return {"request_id": request, "timestamp": stamp, "user_id": user, "item_id": item, **labels, "bought": bought}


ROWS: Rows = {
    "impressions": [
        _impression("r1", "01-01", "u1", "b", 1, 1, 0),
        _impression("r1", "01-01", "u1", "a", 0, 0, 2),
        _impression("r2", "01-02", "u2", "a", 1, 0, None),
        _impression("r2", "01-02", "u2", "c", 0, 0, 12),
        _impression("r3", "01-03", "u1", "c", 0, 0, 1),
        _impression("r3", "01-03", "u1", "a", 0, 1, 5),
        _impression("r3", "01-03", "u1", "b", 1, 0, 7),
        _impression("r4", "02-01", "u2", "b", 1, 0, 1),
        _impression("r4", "02-01", "u2", "c", 0, 0, 1),
        _impression("r5", "03-01", "u1", "a", 1, 1, 1),
        _impression("r5", "03-01", "u1", "c", 0, 0, 1),
    ],
    "items": [
        {"item_id": "a", "title": "apples", "brand": "national"},
        {"item_id": "b", "title": "bread", "brand": "private"},
        {"item_id": "c", "title": "cheese", "brand": None},
        {"item_id": "d", "title": "never shown", "brand": None},
    ],
    "users": [{"user_id": "u1", "age": "30-39"}, {"user_id": "u2", "age": None}],
    "events": [
        {"user_id": "u1", "timestamp": "2023-12-01 10:00:00", "item_id": "c", "kind": "purchase"},
        {"user_id": "u1", "timestamp": "2024-01-01 00:00:00", "item_id": "b", "kind": "purchase"},
        {"user_id": "u1", "timestamp": "2024-01-02 09:00:00", "item_id": "c", "kind": "purchase"},
        {"user_id": "u1", "timestamp": "2024-01-02 10:00:00", "item_id": "a", "kind": "view"},
        {"user_id": "u2", "timestamp": "2024-01-15 00:00:00", "item_id": "a", "kind": "purchase"},
    ],
}


@pytest.fixture
def rows() -> Rows:
    """The tables as rows, free to be spoiled."""
    return copy.deepcopy(ROWS)


def _write(rows: list[dict[str, Any]], path: Path, ending: str) -> Path:
    path = path.with_suffix(f".{ending}")
    table = pa.Table.from_pylist(rows)
    if ending == "csv":
        pa.csv.write_csv(table, path)
    elif ending == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        pq.write_table(table, path)
    return path


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., DataConfig]:
    """Write rows as files of one ending and return a config that prepares them into tmp_path / "prepared"."""

    def make(rows: Rows, ending: str = "csv", **changes: Any) -> DataConfig:
        paths = {name: _write(table, tmp_path / name, ending) for name, table in rows.items()}
        settings: dict[str, Any] = {
            "folder": tmp_path / "prepared",
            "tables": TablesConfig(**paths),
            "split": SplitConfig(valid_from="2024-02-01", test_from="2024-03-01"),
            "history": HistoryConfig(max_events=3),
            "prompt": PromptConfig(
                prefix=["age {age}"], item=["{title}", "{brand} brand"], context=["bought {bought|count}"]
            ),
            "fields": ["bought"],
            "user_groups": ["age"],
        }
        return DataConfig(**(settings | changes))

    return make
