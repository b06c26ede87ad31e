"""Requests of a past moment are those of the prepared slates: texts, features and what candidates are compared with."""

import csv
import itertools
import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from equipoise.configs.features import FeatureConfig
from equipoise.configs.priors import ComparisonConfig
from equipoise.configs.schema import DataConfig, HistoryConfig
from equipoise.configs.tables import TableFile
from equipoise.data.prepare.slates import prepare
from equipoise.data.requests.build import build_requests
from equipoise.data.requests.catalogue import prepared_catalogue
from equipoise.data.requests.files import cut_blocks, find_request_files, read_blocks
from equipoise.data.requests.forms import Request, form_of

Make = Callable[..., DataConfig]


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def _requests(path: Path, config: DataConfig, scales: Any) -> dict[str, Request]:
    compared = [config.comparison.item] if config.comparison else []
    catalogue = prepared_catalogue(config.folder, [*config.feature_names, *compared])
    found = {}
    for file in find_request_files(path):
        form = form_of(file, catalogue, config, scales)
        for _, first, batch in read_blocks(cut_blocks([file], 100), form.columns):
            found |= {request.request_id: request for request in itertools.chain(*form.requests(batch, first))}
    return found


def test_histories_features_and_things_are_those_of_prepare(rows: dict, make_config: Make, tmp_path: Path) -> None:
    for number, row in enumerate(rows["users"]):
        row |= {"visits": 3 + number, "plan": f"p{number}"}
    for number, row in enumerate(rows["items"]):
        row["size"] = 1 + number
    sections = [
        HistoryConfig(label="bought: ", kinds=["purchase"], max_events=2),
        HistoryConfig(label="viewed: ", kinds=["view"], name="views"),
    ]
    features = [
        FeatureConfig(name="visits", scale="log1p"),
        FeatureConfig(name="size", scale="log1p"),
        FeatureConfig(name="plan", scale="category"),
        FeatureConfig(name="bought", scale="log1p"),
    ]
    comparison = ComparisonConfig(item="title", co_purchase=False)
    config = make_config(rows, history=sections, features=features, comparison=comparison)
    manifest = prepare(config)
    expected = _requests(config.folder / "slates", config, manifest.features)
    asked = {row["request_id"]: row for row in rows["impressions"]}
    users = [{name: row[name] for name in ("request_id", "user_id", "timestamp")} for row in asked.values()]
    offers = sorted(rows["impressions"], key=lambda row: (row["request_id"], row["item_id"]))
    offers = [{name: row[name] for name in ("request_id", "item_id", "bought")} for row in offers]
    out = tmp_path / "requests.parquet"
    files = _write(tmp_path / "u.csv", users), _write(tmp_path / "c.csv", offers)
    built = build_requests(config, *files, datetime(2030, 1, 1, tzinfo=UTC), out)
    assert (built.requests, built.candidates, built.with_history, built.notes) == (5, 11, 4, [])
    found = _requests(out, config, manifest.features)
    assert found.keys() == expected.keys()
    for name, request in expected.items():
        made = found[name]
        assert (made.prefix, made.items, made.contexts) == (request.prefix, request.items, request.contexts)
        assert made.features is not None and request.features is not None
        assert [[None if math.isnan(x) else x for x in row] for row in made.features.tolist()] == [
            [None if math.isnan(x) else x for x in row] for row in request.features.tolist()
        ]
        assert made.things is not None and request.things is not None
        assert list(made.things.history) == list(request.things.history)
        assert list(made.things.candidates) == list(request.things.candidates)
    assert any("viewed: apples" in request.prefix for request in expected.values())


def test_what_was_bought_is_told_to_recall(rows: dict, make_config: Make, tmp_path: Path) -> None:
    config = make_config(rows, history=HistoryConfig(items=True))
    users, offers = _write(tmp_path / "u.csv", [{"user_id": "u1"}]), _write(tmp_path / "c.csv", [{"item_id": "a"}])
    out = tmp_path / "r.parquet"
    build_requests(config, users, offers, datetime(2024, 2, 1), out)
    assert pq.read_table(out).column("bought").to_pylist() == [["a", "b", "c", "c"]]


def test_files_may_be_written_as_the_tables_are(rows: dict, make_config: Make, tmp_path: Path) -> None:
    config = make_config(rows, fields=[])
    assert config.tables is not None
    spoken = [{"kunde": row["user_id"], "age": row["age"]} for row in rows["users"]]
    users = TableFile(path=str(_write(tmp_path / "kunden.csv", spoken)), columns={"user_id": "kunde"})
    logged = [{**row, "bought": f"{row['bought'] or 0},0"} for row in rows["impressions"]]
    logs = TableFile(path=str(_write(tmp_path / "logs.csv", logged)), formats={"bought": "german"})
    tables = config.tables.model_copy(update={"users": users, "impressions": logs})
    config = config.model_copy(update={"tables": tables})
    offers = _write(tmp_path / "c.csv", [{"item_id": "a", "bought": "1.000,5"}])
    out = tmp_path / "r.parquet"
    build_requests(config, _write(tmp_path / "u.csv", [{"kunde": "u1"}]), offers, datetime(2024, 1, 1), out)
    assert pq.read_table(out).to_pylist() == [
        {"request_id": "u1", "user_id": "u1", "timestamp": "2024-01-01 00:00:00", "age": "30-39", "history": ["cheese"],
         "item_id": ["a"], "bought": ["1000.5"]}
    ]  # fmt: skip
