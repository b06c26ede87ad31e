"""Requests become the texts of the training, or one sentence about what is wrong with them."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from equipoise.common.errors import UserError
from equipoise.configs.schema import HistoryConfig, PromptConfig
from equipoise.serving.items import KnownItems
from equipoise.serving.limits import Limits
from equipoise.serving.omega import OperatingPoint, read_operating_point
from equipoise.serving.request_error import RequestError
from equipoise.serving.requests import ReadCandidate, RequestReader

PROMPT = PromptConfig(
    prefix=["age {age}", "shopped {visits|count}", "member {member}"],
    item=["{title}", "{brand}"],
    context=["seen {seen|count}", "costs {price|money}"],
)
ITEMS = KnownItems({"i1": "green tea, own", "7": "soap"}, {"i1": "Green tea"})
POINT = OperatingPoint({"diversity": 0.5, "fairness": 0.0}, {"diversity": (0.0, 2.0), "fairness": (-1.0, 1.0)})
LIMITS = Limits(candidates=4, prefix_chars=50, text_chars=20, history=5)


@pytest.fixture
def reader() -> RequestReader:
    return RequestReader(PROMPT, HistoryConfig(max_events=2), ITEMS, POINT, LIMITS)


def test_a_whole_request(reader: RequestReader) -> None:
    found = reader.read(
        {
            "request_id": 12,
            "user": {"age": 35.0, "visits": 3, "member": True, "user_id": "u7"},
            "history": [" ", {"item_id": "i1"}, "Cheese", "Bread"],
            "candidates": [
                {"item_id": "i1", "context": {"seen": 2, "price": 12.4}},
                {"item_id": "new", "item": {"title": "Old cheese", "brand": None}, "context": "seen once"},
                {"text": "fresh bread"},
                7,
            ],
            "omega": {"diversity": 2},
            "top": 3,
        }
    )
    assert found.request_id == "12"
    assert found.prefix == "age 35, shopped 3 times, member yes, bought before: Green tea, Cheese"
    assert found.candidates == [
        ReadCandidate("i1", "green tea, own", "seen twice, costs 12"),
        ReadCandidate("new", "Old cheese", "seen once"),
        ReadCandidate(None, "fresh bread", ""),
        ReadCandidate("7", "soap", ""),
    ]
    assert found.omega == {"diversity": 2.0, "fairness": 0.0}
    assert found.top == 3


def test_an_anonymous_user_and_the_defaults(reader: RequestReader) -> None:
    found = reader.read({"candidates": ["i1", "i1"]})  # the same item twice: it may be offered in two ways
    assert (found.request_id, found.prefix, found.omega, found.top) == (None, "", POINT.omega, None)
    assert len(found.candidates) == 2
    assert reader.read({"user": {}, "history": [], "candidates": ["i1"]}).prefix == ""
    assert reader.read({"user": {"user_id": 1}, "candidates": ["i1"]}).prefix == ""


def test_what_is_not_given_is_counted(reader: RequestReader) -> None:
    assert reader.read(
        {"user": {"age": None}, "candidates": ["i1", {"text": "tea", "context": "seen once"}]}
    ).missing == {
        "user.visits": 1,
        "user.member": 1,
        "context.seen": 1,
        "context.price": 1,
    }
    item = {"item": {"title": "Tea"}, "context": {"seen": 1, "price": None}}
    assert reader.read({"prefix": "age 35", "candidates": [item, item]}).missing == {"item.brand": 2}


def test_unknown_names_may_be_ignored(reader: RequestReader) -> None:
    tolerant = reader.with_limits(replace(LIMITS, unknown_fields=True))
    request = {"user": {"age": 35, "shoe_size": 44}, "candidates": ["i1"]}
    assert tolerant.read(request).prefix == "age 35"
    with pytest.raises(RequestError, match="shoe_size"):
        reader.read(request)


def test_true_is_not_one_whatever_came_before(reader: RequestReader) -> None:
    for value, words in ((1, "member 1"), (True, "member yes"), (1.0, "member 1"), (False, "member no")):
        assert reader.read({"user": {"member": value}, "candidates": ["i1"]}).prefix == words


def test_numpy_values_are_plain_values(reader: RequestReader) -> None:
    user = {"age": np.int64(35), "visits": np.float32(3)}
    found = reader.read({"user": user, "candidates": np.array(["i1", "7"]), "omega": {"diversity": np.float64(1)}})
    assert found.prefix == "age 35, shopped 3 times"
    assert [candidate.item_id for candidate in found.candidates] == ["i1", "7"]


def test_an_example_is_a_request(reader: RequestReader) -> None:
    example = {"name": "x", "prefix": "age 35", "candidates": ["i1"], "clicked": [0], "converted": []}
    assert reader.read(example).prefix == "age 35"


ONE = {"candidates": ["i1"]}
WRONG: list[tuple[Any, str, str]] = [
    (None, "the request", "is null"),
    ([], "the request", "is a list"),
    ("x", "the request", "is a text"),
    ({1: 2}, "the request", "key that is no text"),
    ({**ONE, "candidats": []}, "the request", "unknown key 'candidats': use request_id, user"),
    ({}, "candidates", "is missing"),
    ({"candidates": None}, "candidates", "is null: give a list"),
    ({"candidates": {}}, "candidates", "is an object"),
    ({"candidates": "i1"}, "candidates", "is a text"),
    ({"candidates": []}, "candidates", "is empty"),
    ({"candidates": ["i1"] * 5}, "candidates", "has 5 entries: give at most 4"),
    ({"candidates": [None]}, "candidates[0]", "is null: give an id"),
    ({"candidates": ["i1", True]}, "candidates[1]", "is true or false"),
    ({"candidates": [1.5]}, "candidates[0]", "is a number: give an id"),
    ({"candidates": [[]]}, "candidates[0]", "is a list"),
    ({"candidates": [""]}, "candidates[0]", "is empty"),
    ({"candidates": ["i2"]}, "candidates[0].item_id", "is 'i2', which this export does not know"),
    ({"candidates": ["x" * 21]}, "candidates[0]", "has 21 characters: give at most 20"),
    ({"candidates": [10**400]}, "candidates[0]", "give an id"),
    ({"candidates": [{}]}, "candidates[0]", "names no item"),
    ({"candidates": [{"id": "i1"}]}, "candidates[0]", "unknown key 'id'"),
    ({"candidates": [{"item": {"title": "x"}, "text": "x"}]}, "candidates[0]", "both item and text"),
    ({"candidates": [{"item": {"brand": None}}]}, "candidates[0].item", "give at least one of title, brand"),
    ({"candidates": [{"item": {"name": "x"}}]}, "candidates[0].item.name", "is not read: use title, brand, item_id"),
    ({"user": {"Age": 3}, "candidates": ["i1"]}, "user.Age", "did you mean 'age'?"),
    ({"user": {"vists": 3}, "candidates": ["i1"]}, "user.vists", "did you mean 'visits'?"),
    ({"candidates": [{"item_id": "i1", "context": {"pirce": 3}}]}, "candidates[0].context.pirce", "'price'"),
    ({"candidates": [{"item_id": "i1", "features": {"x": 3}}]}, "candidates[0].features.x", "nor is anything else"),
    ({"candidates": [{"item_id": "i1", "attributes": {"x": 3}}]}, "candidates[0].attributes.x", "leave it out"),
    ({"candidates": [{"item": {"title": " "}}]}, "candidates[0].item", "tells nothing"),
    ({"candidates": [{"item": "x"}]}, "candidates[0].item", "is a text: give an object"),
    ({"candidates": [{"item": {"title": [{"a": 1}]}}]}, "candidates[0].item.title", "is a list of objects"),
    ({"candidates": [{"item": {"title": "x" * 21}}]}, "candidates[0].item.title", "has 21 characters"),
    ({"candidates": [{"text": " "}]}, "candidates[0].text", "is blank"),
    ({"candidates": [{"text": 5}]}, "candidates[0].text", "is a number: give a text"),
    ({"candidates": [{"text": "\ud800"}]}, "candidates[0].text", "no valid Unicode"),
    ({"candidates": [{"item_id": "i1", "context": []}]}, "candidates[0].context", "is a list: give an object"),
    ({"candidates": [{"item_id": "i1", "context": {"seen": math.nan}}]}, "candidates[0].context.seen", "not a finite"),
    (
        {"candidates": [{"item_id": "i1", "context": {"seen": "often"}}]},
        "candidates[0].context.seen",
        "is 'often', but",
    ),
    ({"candidates": [{"item_id": "i1", "context": {"seen": "inf"}}]}, "candidates[0].context.seen", "reads a number"),
    ({"candidates": [{"item_id": "i1", "context": {"price": 1j}}]}, "candidates[0].context.price", "complex"),
    ({**ONE, "user": [1]}, "user", "is a list"),
    ({**ONE, "user": {"age": math.inf}}, "user.age", "not a finite number"),
    ({**ONE, "user": {"age": 10**400}}, "user.age", "not a finite number"),
    ({**ONE, "user": {"age": {}}}, "user.age", "is an object"),
    ({**ONE, "user": {"visits": "1e999"}}, "user.visits", "reads a number there"),
    ({**ONE, "history": "tea"}, "history", "is a text: give a list"),
    ({**ONE, "history": ["x"] * 6}, "history", "has 6 entries: give at most 5"),
    ({**ONE, "history": [None]}, "history[0]", "is null: give a title"),
    ({**ONE, "history": [{"id": 1}]}, "history[0]", "unknown key"),
    ({**ONE, "history": [{}]}, "history[0]", "has no item_id"),
    ({**ONE, "history": [{"item_id": "7"}]}, "history[0].item_id", "whose title this export lacks"),
    ({**ONE, "prefix": 5}, "prefix", "is a number"),
    ({**ONE, "prefix": "x" * 51}, "prefix", "has 51 characters: give at most 50"),
    ({**ONE, "prefix": "x", "user": {}}, "prefix", "stands for user and history"),
    ({**ONE, "prefix": "x", "history": []}, "prefix", "stands for user and history"),
    ({**ONE, "omega": 1}, "omega", "is a number: give an object"),
    ({**ONE, "omega": {"novelty": 1}}, "omega", "names 'novelty', which is no list-wise objective: use diversity"),
    ({**ONE, "omega": {"diversity": 2.1}}, "omega.diversity", "is 2.1: give a number from 0 to 2"),
    ({**ONE, "omega": {"fairness": -2}}, "omega.fairness", "is -2: give a number from -1 to 1"),
    ({**ONE, "omega": {"diversity": math.nan}}, "omega.diversity", "not a finite number"),
    ({**ONE, "omega": {"diversity": True}}, "omega.diversity", "is true or false"),
    ({**ONE, "omega": {"diversity": "1"}}, "omega.diversity", "is a text"),
    ({**ONE, "omega": {"diversity": 10**400}}, "omega.diversity", "not a finite number"),
    ({**ONE, "top": 0}, "top", "is 0: give a whole number"),
    ({**ONE, "top": 1.5}, "top", "is 1.5"),
    ({**ONE, "top": True}, "top", "is True"),
    ({**ONE, "request_id": []}, "request_id", "is a list"),
    ({**ONE, "request_id": ""}, "request_id", "is empty"),
]


@pytest.mark.parametrize(("request_", "field", "sentence"), WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_named(request_: Any, field: str, sentence: str, reader: RequestReader) -> None:
    with pytest.raises(RequestError) as error:
        reader.read(request_)
    assert error.value.field == field
    assert sentence in error.value.sentence
    assert str(error.value) == f"{error.value.field} {error.value.sentence}"


def test_bounds_hold_the_chosen_point() -> None:
    chosen = {"operating_point": {"omega": {"diversity": 7.0, "fairness": -0.5}}}
    found = read_operating_point(chosen, ("diversity", "fairness"))
    assert found.bounds == {"diversity": (0.0, 7.0), "fairness": (-0.5, 5.0)}
    given = {"operating_point": {"omega": {"diversity": 1}, "bounds": {"diversity": [0.5, 2]}}}
    assert read_operating_point(given, ("diversity",)).bounds == {"diversity": (0.5, 2.0)}
    assert read_operating_point({"operating_point": {"omega": {}}}, ("fairness",)).omega == {"fairness": 0.0}
    with pytest.raises(UserError, match=r"serving\.json has no operating_point\.omega"):
        read_operating_point({}, ("diversity",))


@pytest.mark.parametrize(
    "point",
    [{"omega": {"diversity": None}}, {"omega": {"diversity": 1}, "bounds": {"diversity": [2, 3]}},
     {"omega": {"diversity": 1}, "bounds": {"diversity": [0, math.inf]}},
     {"omega": {"diversity": 1}, "bounds": {"diversity": 5}}],
)  # fmt: skip
def test_a_senseless_operating_point(point: dict) -> None:
    with pytest.raises(Exception, match=r"serving\.json: operating_point.*'diversity'.*choose one again"):
        read_operating_point({"operating_point": point}, ("diversity",))
