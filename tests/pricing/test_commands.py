from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fastapi.testclient import TestClient

from equipoise.common.errors import UserError
from equipoise.launch.options import PriceOptions
from equipoise.launch.price import choose_prices as price
from equipoise.serving.frames import RequestRows
from equipoise.serving.recommender import Recommender
from equipoise.serving.server.app import create_app
from equipoise.serving.server.options import ServerOptions


@pytest.fixture(scope="module")
def client(priced_run: Callable) -> Iterator[TestClient]:
    with TestClient(create_app(Recommender.load(priced_run("llama").export), ServerOptions())) as client:
        yield client


BODY: dict[str, Any] = {
    "request_id": 7,
    "user": {"attitude": "luxury lover"},
    "candidates": [
        {"item_id": "i1", "cost": 1.0, "context": {"price": 4}},
        {"item_id": "i2", "cost": 2, "prices": [9]},
    ],
    "prices": {"least": 2, "most": 5, "step": 0.5},
    "force": True,  # a model of random weights shows no response
}


def test_price_answers_with_allowed_prices(client: TestClient, priced_run: Callable) -> None:
    answer = client.post("/price", json=BODY)
    assert answer.status_code == 200
    content = answer.json()
    first, second = content["candidates"]
    assert first["price"] in [2, 2.5, 3, 3.5, 4, 4.5, 5] and second["price"] == 9
    assert first["current"]["price"] == 4 and content["request_id"] == "7" and content["goal"] == "profit"
    assert content["served"]["requests"] == 1
    expected = Recommender.load(priced_run("llama").export).price(
        BODY["user"], BODY["candidates"], prices=BODY["prices"], force=True
    )
    assert first["price"] == expected.candidates[0].price
    assert first["demand"] == pytest.approx(expected.candidates[0].demand, rel=1e-4)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"prices": []}, "prices"),
        ({"prices": "cheap"}, "prices"),
        ({"prices": [1e300]}, "prices"),
        ({"prices": [[1]]}, "prices"),
        ({"prices": {"least": 1, "most": 2, "step": -1}}, "prices.step"),
        ({"prices": {"least": 1, "most": 1e8, "step": 1e-6}}, "prices"),
        ({"prices": {"factors": [1] * 10_001}}, "prices"),
        ({"prices": {"least": {}, "most": 2, "step": 1}}, "prices"),
        ({"goal": "profits"}, "goal"),
        ({"field": "title"}, "field"),
        ({"field": ""}, "field"),
        ({"candidates": [{"item_id": "i1", "cost": {}}]}, "candidates[0].cost"),
        ({"candidates": [{"item_id": "i1"}, {"item_id": "i2", "cost": 1}]}, "candidates[0].cost"),
        ({"candidates": [{"item_id": "i1", "features": {"price": "x"}}]}, "candidates[0].features.price"),
        ({"top": 3}, "top"),
    ],
)
def test_hostile_requests_are_refused(client: TestClient, change: dict, where: str) -> None:
    answer = client.post("/price", json={**BODY, **change})
    assert answer.status_code in (400, 422) and answer.json()["where"].startswith(where), answer.text
    assert len(answer.json()["error"]) > 10


def test_rank_takes_features(client: TestClient) -> None:
    answer = client.post("/rank", json={"candidates": [{"item_id": "i1", "features": {"price": 3}}]})
    assert answer.status_code == 200


def requests(folder: Path) -> Path:
    rows = [
        {"request_id": "a", "attitude": "bargain hunter", "item_id": "i1", "price": 4.0, "cost": 1.0},
        {"request_id": "a", "attitude": "bargain hunter", "item_id": "i2", "price": 6.0, "cost": 2.0},
        {"request_id": "b", "attitude": "luxury lover", "item_id": "i1", "price": 4.0, "cost": 1.0},
    ]
    pd.DataFrame(rows).to_parquet(folder / "requests.parquet")
    return folder / "requests.parquet"


def test_the_command_prices_a_file(priced_run: Callable, tmp_path: Path) -> None:
    run, out = priced_run("llama"), tmp_path / "prices.csv"
    price(run.export, requests(tmp_path), out, PriceOptions(factors="0.5,1,1.5"))
    found = pd.read_csv(out)
    assert found.request_id.tolist() == ["a", "a", "b"] and found.item_id.tolist() == ["i1", "i2", "i1"]
    assert (found.price / found.current_price).isin([0.5, 1.0, 1.5]).all()
    assert (found.expected >= found.current_expected).all()
    recommender = Recommender.load(run.export)
    user = {"attitude": "luxury lover"}
    candidate = {"item_id": "i1", "context": {"price": 4.0}, "features": {"cost": 1.0}, "cost": 1.0}
    expected = recommender.price(user, [candidate], prices=[2, 4, 6]).candidates[0]
    assert found.price[2] == expected.price and found.expected[2] == pytest.approx(expected.expected, rel=1e-4)


def test_a_shoppers_category_stands_once_per_row_of_lists_and_reaches_common_candidates(priced_run: Callable) -> None:
    recommender = Recommender.load(priced_run("llama").export)
    rows = [{"request_id": "a", "prefix": "somebody", "attitude": "luxury lover", "item_id": ["i1", "i2"]}]
    listed = RequestRows(recommender.reader, rows[0], per_candidate=False).request(rows)
    assert [one["features"] for one in listed["candidates"]] == [{"attitude": "luxury lover"}] * 2
    common = [{"item_id": "i1"}, {"item_id": "i2", "features": {"price": 3.0, "attitude": "bargain hunter"}}]
    shared = RequestRows(recommender.reader, rows[0], per_candidate=False, candidates=common).request(rows)
    assert [one["features"] for one in shared["candidates"]] == [
        {"attitude": "luxury lover"},
        {"price": 3.0, "attitude": "bargain hunter"},
    ]
    none = RequestRows(recommender.reader, ["request_id"], per_candidate=False, candidates=common)
    assert none.request([{"request_id": "a"}])["candidates"] == common


def test_one_row_per_request_with_lists(priced_run: Callable, tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"request_id": ["a"], "item_id": [["i1", "i2"]], "cost": [[1.0, 2.0]], "prices": [[[2.0, 3.0], [5.0]]]}
    )
    table.to_parquet(tmp_path / "requests.parquet")
    price(priced_run("llama").export, tmp_path / "requests.parquet", tmp_path / "out.parquet", PriceOptions())
    found = pd.read_parquet(tmp_path / "out.parquet")
    assert found.price[0] in (2.0, 3.0) and found.price[1] == 5.0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"prices": "1,2", "factors": "1"}, "--prices and --factors exclude each other"),
        ({"bounds": "1:2"}, "--bounds '1:2' has 2 numbers"),
        ({"prices": "1,x"}, "not a number: write them like"),
        ({}, "request 'a': prices is missing"),
        ({"prices": "1", "goal": "luck"}, "request 'a': goal is 'luck'"),
    ],
)
def test_the_command_refuses(priced_run: Callable, tmp_path: Path, options: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        price(priced_run("llama").export, requests(tmp_path), tmp_path / "out.csv", PriceOptions(**options))
    assert not (tmp_path / "out.csv").exists()
