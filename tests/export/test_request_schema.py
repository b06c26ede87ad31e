"""The schema of requests in an export says of a request what the reader of requests says."""

import json
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest

from equipoise.export.request_schema import SCHEMA_FILE
from equipoise.serving.recommender import Recommender
from equipoise.serving.request_error import RequestError
from equipoise.serving.server.bodies import Candidate, RankRequest

ITEM = {"title": "tea"}
GOOD = [
    {"candidates": [{"item_id": "i1"}]},
    {"candidates": [{"item": ITEM, "context": {"seen_before": 3}}], "user": {"age": 40, "user_id": "u1"}, "top": 1},
    {
        "candidates": [{"item_id": "i2", "text": "tea", "context": "seen once"}],
        "prefix": "age 40",
        "omega": {"diversity": 1},
    },
    {"candidates": [{"item_id": 7, "text": "tea"}], "history": ["Tea", {"item_id": "i1"}][:1], "user": {"age": None}},
    {"candidates": [{"text": "tea", "value": 2.5, "boost": -1}], "user": {"age": [40, "b"]}, "value_weight": 0.5},
]
BAD = [
    {},
    {"candidates": []},
    {"candidates": [{"item_id": "i1"}], "user": {"Age": 40}},
    {"candidates": [{"item_id": "i1", "context": {"seen_befor": 1}}]},
    {"candidates": [{"item": {"titel": "tea"}}]},
    {"candidates": [{"item_id": "i1", "features": {"price": 1}}]},
    {"candidates": [{"item_id": "i1"}], "omega": {"diversty": 1}},
    {"candidates": [{"item_id": "i1"}], "omega": {"diversity": 9}},
    {"candidates": [{"item_id": "i1"}], "top": 0},
    {"candidates": [{"item_id": "i1"}], "usr": {}},
    {"candidates": [{"item_id": "i1", "boost": 9}]},
    {"candidates": [{"text": "a" * 4001}]},
    {"candidates": [{"item_id": ""}]},
]


@pytest.fixture(scope="module")
def recommender(tiny_export: Callable[..., Any]) -> Recommender:
    return Recommender.load(tiny_export().folder)


def test_it_is_in_the_export(tiny_export: Callable[..., Any], recommender: Recommender) -> None:
    written = json.loads((tiny_export().folder / SCHEMA_FILE).read_text("utf-8"))
    assert written == recommender.request_schema
    jsonschema.Draft202012Validator.check_schema(written)
    assert set(written["properties"]) == set(RankRequest.model_fields)
    candidate = written["properties"]["candidates"]["anyOf"][0]["items"]["properties"]
    assert set(candidate) == set(Candidate.model_fields)


@pytest.mark.parametrize(("request_json", "good"), [*((each, True) for each in GOOD), *((each, False) for each in BAD)])
def test_it_agrees_with_the_reader(recommender: Recommender, request_json: dict[str, Any], good: bool) -> None:
    assert jsonschema.Draft202012Validator(recommender.request_schema).is_valid(request_json) == good
    if good:
        recommender.reader.read(request_json)
    else:
        with pytest.raises(RequestError):
            recommender.reader.read(request_json)
