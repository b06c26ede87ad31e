"""No skew in scores: a column of any type gives the same pCTR in evaluate, score, recommend and over HTTP."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from benchmarks.random_run import write_random_run
from equipoise.configs.load import load_config
from equipoise.data.prepare.slates import prepare
from equipoise.data.values import plain_value
from equipoise.export.write import export_run
from equipoise.launch.cli import main
from equipoise.scoring.options import RecommendOptions, ScoreOptions
from equipoise.scoring.recommend import recommend_file
from equipoise.scoring.score_run import score_run
from equipoise.serving.recommender import Recommender
from equipoise.serving.server.app import create_app
from equipoise.serving.server.options import ServerOptions
from tests.serving.test_value_skew import ITEMS, REQUESTS, TYPES, USERS
from tests.tiny_run import run_settings, write_config

COLUMNS = {
    "decimal": TYPES["decimal"],
    "float32": TYPES["float32"],
    "float64": TYPES["float64"],
    "moment": TYPES["timestamp us UTC"],
    "local": TYPES["timestamp us Asia/Tokyo"],
    "bool": TYPES["bool"],
    "int64": TYPES["int64"],
    "date": TYPES["date"],
    "text": TYPES["text"],
}
"""Each is a category of items, of shoppers and of impressions, and a piece of their prompts."""
PLACES = {"item": "item_", "user": "user_", "context": "deal_"}
"""The start of a column's name by what it tells of."""
Scores = dict[tuple[str, str], float]
"""pCTR by request and item."""
TOLERANCE = 1e-6


def _turn(request: int, place: int) -> int:
    """Which value of the impressions' columns an item has in a request."""
    return (request + place) % 3


def _columns(place: str, turns: list[int]) -> dict[str, pa.Array]:
    return {PLACES[place] + name: column.take(pa.array(turns)) for name, column in COLUMNS.items()}


def _write_tables(folder: Path) -> dict[str, str]:
    """Three items, three shoppers and nine requests of all items; labels follow the turns."""
    turns = [_turn(request, place) for request in range(REQUESTS) for place in range(3)]
    numbers = [request for request in range(REQUESTS) for _ in ITEMS]
    tables: dict[str, dict[str, Any]] = {
        "impressions": {
            "request_id": [f"r{request}" for request in numbers],
            "timestamp": [f"2025-03-0{1 + request} 10:00:00" for request in numbers],
            "user_id": [USERS[request % 3] for request in numbers],
            "item_id": ITEMS * REQUESTS,
            "click": [int(turn == 0) for turn in turns],
            "conversion": [int(turn == 0 and place % 4 == 0) for place, turn in enumerate(turns)],
            **_columns("context", turns),
        },
        "items": {"item_id": ITEMS, "title": ["apples", "bread", "cheese"], **_columns("item", [0, 1, 2])},
        "users": {"user_id": USERS, **_columns("user", [0, 1, 2])},
    }
    folder.mkdir()
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return {name: str(folder / f"{name}.parquet") for name in tables}


def _settings(folder: Path) -> dict[str, Any]:
    pieces = {place: [f"{{{start}{name}}}" for name in COLUMNS] for place, start in PLACES.items()}
    settings = run_settings(folder)
    settings["data"] = {
        "folder": str(folder / "prepared"),
        "tables": _write_tables(folder / "typed"),
        "split": {"valid_from": "2025-03-06", "test_from": "2025-03-08"},
        "history": {"max_events": 0},
        "prompt": {"prefix": pieces["user"], "item": ["{title}", *pieces["item"]], "context": pieces["context"]},
        "features": [{"name": f"{start}{name}", "scale": "category"} for start in PLACES.values() for name in COLUMNS],
    }
    settings["tokens"] = {"max_prefix": 128, "max_candidate": 256, "max_row": 1024}
    settings["objectives"], settings["balancing"] = {"ctr": {}}, {}
    settings["evaluate"] = {"baselines": []}
    base = Path(settings["backbone"]["path"]) / "config.json"
    base.write_text(json.dumps(json.loads(base.read_text()) | {"max_position_embeddings": 1024}))
    return settings


def _requests() -> list[dict[str, Any]]:
    """The requests as JSON would hold them."""
    cells = {name: [json.loads(json.dumps(value)) for value in _held(column)] for name, column in COLUMNS.items()}

    def values(place: str, turn: int) -> dict[str, Any]:
        return {PLACES[place] + name: cells[name][turn] for name in COLUMNS}

    return [
        {
            "user": values("user", request % 3),
            "candidates": [
                {"item_id": item, "context": values("context", _turn(request, place))}
                for place, item in enumerate(ITEMS)
            ],
        }
        for request in range(REQUESTS)
    ]


def _held(column: pa.Array) -> list[Any]:
    """What a caller holds, of 32 bits NumPy's numbers, as JSON can hold it."""
    values = column.to_numpy() if pa.types.is_float32(column.type) else column.to_pylist()
    return [plain_value(value) for value in values]


def _write_requests(path: Path) -> Path:
    """The requests as a file, a row each, the columns stored as in the tables."""
    every = [_turn(request, place) for request in range(REQUESTS) for place in range(3)]
    ends = pa.array(range(0, 3 * REQUESTS + 1, 3), pa.int32())
    lists = {name: pa.ListArray.from_arrays(ends, column) for name, column in _columns("context", every).items()}
    table = {
        "request_id": [f"r{request}" for request in range(REQUESTS)],
        "user_id": [USERS[request % 3] for request in range(REQUESTS)],
        "item_id": [ITEMS] * REQUESTS,
        **_columns("user", [request % 3 for request in range(REQUESTS)]),
        **lists,
    }
    pq.write_table(pa.table(table), path)
    return path


def _by_names(table: pa.Table) -> Scores:
    return {(row["request_id"], row["item_id"]): row["pctr"] for row in table.to_pylist()}


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Scores]:
    """pCTR of the train split's requests by the way to score them."""
    folder = tmp_path_factory.mktemp("skew")
    config = load_config(write_config(_settings(folder), folder / "config.yaml"))
    manifest = prepare(config.data)
    assert all(len(scale.values) == len(set(_texts(name))) for name, scale in manifest.features.items())
    write_random_run(config, features={name: scale.model_dump() for name, scale in manifest.features.items()})
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", str(config.output), "--split", "train"])
    assert not stop.value.code
    evaluated = pq.read_table(config.output / "scores_train.parquet")
    names = sorted(f"r{request}" for request in range(5))
    ids = pq.read_table(config.data.folder / "items.parquet").column("item_id").to_pylist()
    found = {"evaluate": {(names[row["request"]], ids[row["item"]]): row["pctr"] for row in evaluated.to_pylist()}}
    requests = _write_requests(folder / "requests.parquet")
    score_run(config.output, requests, folder / "scores", ScoreOptions())
    found["score"] = _by_names(pa.concat_tables(map(pq.read_table, (folder / "scores").glob("scores-*.parquet"))))
    export_run(config.output, folder / "export", golden=2)
    recommend_file(folder / "export", requests, folder / "ranked.parquet", RecommendOptions())
    found["recommend"] = _by_names(pq.read_table(folder / "ranked.parquet"))
    recommender = Recommender.load(folder / "export")
    with TestClient(create_app(recommender, ServerOptions())) as client:
        for number, body in enumerate(_requests()):
            for route in ("score", "rank"):
                answer = client.post(f"/{route}", json=body)
                assert answer.status_code == 200, answer.text
                assert not answer.json()["served"]["missing"], answer.text
                for one in answer.json()["candidates"]:
                    key = (f"r{number}", one["item_id"])
                    found.setdefault(f"HTTP /{route}", {})[key] = one["probabilities"]["ctr"]
    return found


def _texts(name: str) -> list[str]:
    return [str(value) for value in COLUMNS[name.partition("_")[2]].to_pylist()]


@pytest.mark.parametrize("way", ["score", "recommend", "HTTP /score", "HTTP /rank"])
def test_scores_are_those_of_the_evaluation(ways: Mapping[str, Scores], way: str) -> None:
    expected = ways["evaluate"]
    assert len(expected) == 15 and np.ptp(list(expected.values())) > 0.05
    for key, value in expected.items():
        assert ways[way][key] == pytest.approx(value, abs=TOLERANCE), key
