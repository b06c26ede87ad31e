"""A run without training on tiny prepared data, and the same requests in both forms."""

import csv
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.random_run import write_random_run
from equipoise.configs.load import load_config
from equipoise.configs.schema import RunConfig
from equipoise.data.prepare.slates import prepare
from tests.history_reference import titles_before
from tests.tiny_run import run_settings, write_config

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Scoreable:
    """A run folder, prepared slates and the rows of the same requests in raw form."""

    config: RunConfig
    slates: Path
    raw: list[dict[str, Any]]

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.config.output

    def write_raw(self, path: Path, change: Callable[[dict[str, Any]], object] = lambda row: None) -> Path:
        """The raw requests as Parquet, the third of them changed."""
        rows = [dict(row) for row in self.raw]
        change(rows[2])
        names = dict.fromkeys(name for row in rows for name in row)
        pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), path)
        return path


def raw_rows(config: RunConfig, slates: Path) -> list[dict[str, Any]]:
    """The requests of a shard, put together from the tables themselves, in the order of the shard."""
    tables = config.data.tables
    assert tables is not None and tables.users is not None and tables.events is not None

    def read(path: Path) -> list[dict[str, str]]:
        with path.open(newline="") as file:
            return list(csv.DictReader(file))

    ages = {row["user_id"]: row["age"] for row in read(tables.users)}
    titles = {row["item_id"]: row["title"] for row in read(tables.items)}
    events = defaultdict(list)
    for row in read(tables.events):
        events[row["user_id"]].append((datetime.fromisoformat(row["timestamp"]), titles[row["item_id"]]))
    impressions = defaultdict(list)
    for row in read(tables.impressions):
        impressions[row["request_id"]].append(row)
    found = []
    for name in pq.read_table(slates).column("request_id").to_pylist():
        rows = sorted(impressions[name], key=lambda row: row["item_id"])
        user = rows[0]["user_id"]
        moment = datetime.fromisoformat(rows[0]["timestamp"])
        found.append(
            {
                "request_id": name,
                "user_id": user,
                "age": int(ages[user]),
                "item_id": [row["item_id"] for row in rows],
                "seen_before": [int(row["seen_before"]) for row in rows],
                "history": titles_before(events[user], moment, config.data.history),
            }
        )
    return found


@pytest.fixture(scope="session")
def scoreable(tmp_path_factory: pytest.TempPathFactory) -> Scoreable:
    """Prepared once for all tests that score."""
    folder = tmp_path_factory.mktemp("score")
    config = load_config(write_config(run_settings(folder), folder / "config.yaml"))
    prepare(config.data)
    write_random_run(config)
    slates = config.data.folder / "slates" / "train-00000.parquet"
    return Scoreable(config, slates, raw_rows(config, slates))
