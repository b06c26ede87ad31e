from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from equipoise.data.features import NumberScale
from equipoise.serving.recommender import Recommender, RequestError

USER = {"attitude": "bargain hunter", "income": "low"}


@pytest.fixture(scope="module")
def recommender(priced_run: Callable) -> Recommender:
    return Recommender.load(priced_run("llama").export)


def test_prices_are_scored_as_separate_requests_would_be(recommender: Recommender) -> None:
    given = [{"item_id": "i1", "context": {"price": 4.0}, "cost": 1.5}, {"item_id": "i7", "cost": 2, "prices": [3, 9]}]
    pricing = recommender.price(USER, given, prices={"least": 2, "most": 6, "step": 2})
    assert pricing.goal == "profit" and [c.item_id for c in pricing.candidates] == ["i1", "i7"]
    for candidate, grid in zip(pricing.candidates, ([2.0, 4.0, 6.0], [3.0, 9.0]), strict=True):
        assert [point.price for point in candidate.curve] == grid
        for point in candidate.curve:
            alone = recommender.score(USER, [{"item_id": candidate.item_id, "context": {"price": point.price}}])
            assert point.model_demand == pytest.approx(alone.given[0].pctcvr, rel=1e-4)


def test_one_prefix_is_encoded_once(recommender: Recommender) -> None:
    before = recommender.cache.misses, recommender.cache.hits
    recommender.price({"attitude": "x"}, ["i1", "i2", "i3"], prices=list(range(1, 30)))
    assert (recommender.cache.misses, recommender.cache.hits) == (before[0] + 1, before[1])


def test_the_current_price_is_the_contexts_else_the_items(recommender: Recommender, priced_run: Callable) -> None:
    items = pd.read_parquet(priced_run("llama").shop / "items.parquet").set_index("item_id")
    given: list[Any] = ["i3", {"item_id": "i3", "context": {"price": 5}}, {"item_id": "i3", "features": {"price": 6}}]
    found = [c.current.price for c in recommender.price(USER, given, prices=[3]).candidates if c.current]
    assert found == [items.price["i3"], 5.0, 6.0]
    text = recommender.price(USER, [{"text": "some tea"}], prices=[3]).candidates[0]
    assert text.current is None and text.item_id is None


def test_features_reach_the_scores_of_rank_and_an_unknown_one_is_the_mean(recommender: Recommender) -> None:
    candidate = {"text": "tea", "context": "price 4"}
    cheap, dear, none = (
        recommender.score(USER, [{**candidate, **more}]).given[0].probabilities["ctr"]
        for more in ({"features": {"price": 2, "cost": 1}}, {"features": {"price": 20, "cost": 1}}, {})
    )
    scales = {name: scale for name, scale in recommender.scales.items() if isinstance(scale, NumberScale)}
    mean = {name: float(np.exp(scale.mean) - (scale.scale == "log1p")) for name, scale in scales.items()}
    same = recommender.score(USER, [{**candidate, "features": mean}]).given[0].probabilities["ctr"]
    assert abs(cheap - dear) > 1e-3 and none == pytest.approx(same, abs=1e-6)
    with pytest.raises(RequestError, match=r"candidates\[0\].features.price is '-1'"):
        recommender.score(USER, [{**candidate, "features": {"price": -1}}])


def test_a_count_may_be_zero_and_not_below(recommender: Recommender) -> None:
    candidate = {"text": "tea", "context": {"price": 4}}
    never, often, unknown = (
        recommender.score(USER, [{**candidate, "features": {"bought": bought}}]).given[0].probabilities["ctr"]
        for bought in (0, 30, None)
    )
    assert len({round(value, 5) for value in (never, often, unknown)}) == 3
    with pytest.raises(RequestError, match=r"context.bought is '-1': give a number of 0 or more, or null where it is"):
        recommender.score(USER, [{"text": "tea", "context": {"bought": -1}}])


def test_a_category_is_the_candidates_else_the_items_else_the_shoppers(
    recommender: Recommender, priced_run: Callable
) -> None:
    def read(candidate: dict, user: dict) -> dict:
        found = recommender.prepare({"user": user, "candidates": [candidate]}).request.candidates[0].features
        scales = recommender.scales.items()
        return {name: scale.to_cell(value) for (name, scale), value in zip(scales, found, strict=True)}

    known = pd.read_parquet(priced_run("llama").export / "items.parquet").set_index("item_id")
    assert read({"item_id": "i1"}, USER)["attitude"] == "bargain hunter"
    assert read({"item_id": "i1"}, USER)["tier"] == known.tier["i1"]
    assert read({"item_id": "i1", "features": {"tier": "basic", "attitude": "quality first"}}, USER) == {
        **read({"item_id": "i1"}, {}), "tier": "basic", "attitude": "quality first"
    }  # fmt: skip
    assert read({"text": "tea", "item": None, "context": {"tier": "premium"}}, {})["tier"] == "premium"
    assert read({"text": "tea"}, {"attitude": "none that was seen"})["attitude"] is None
    assert read({"item_id": "i1"}, {"attitude": ["bargain hunter"]})["attitude"] == "bargain hunter"  # as text
    with pytest.raises(RequestError, match=r"user.attitude is an object"):
        read({"item_id": "i1"}, {"attitude": {"a": "thrifty"}})


def test_a_shoppers_category_changes_the_slope_of_the_price(recommender: Recommender) -> None:
    candidates = [{"item_id": "i1", "context": "price 4", "features": {"price": price}} for price in (2.0, 8.0)]
    slopes = []
    for attitude in ("bargain hunter", "quality first", "none that was seen"):
        told = [{**c, "features": {**c["features"], "attitude": attitude}} for c in candidates]
        low, high = (given.probabilities["ctr"] for given in recommender.score({}, told).given)
        slopes.append(np.log(high / (1 - high)) - np.log(low / (1 - low)))
    assert np.abs(np.diff(slopes)).min() > 1e-2  # the text is the same in all of them


def test_a_category_is_explained_with_the_words_of_the_shopper(recommender: Recommender) -> None:
    asked = {"text": "tea", "context": {"price": 4}, "features": {"tier": "basic"}}
    found = recommender.explain({"attitude": "quality first"}, [asked], explain=[0]).candidates[0]
    parts = [(one.part.where, one.part.text) for one in found.contributions]
    assert ("category", "tier basic") in parts and ("shopper", "quality first") in parts
    assert not any(where in ("number", "category") and "attitude" in text for where, text in parts)
    whole, without = (
        recommender.score(user, [asked]).given[0].log_probabilities["ctr"]
        for user in ({"attitude": "quality first"}, {})
    )
    one = next(each for each in found.contributions if each.part.where == "shopper")
    assert one.objectives["ctr"] == pytest.approx(whole - without, abs=1e-5)


def test_a_number_is_explained_with_its_words_or_by_itself(recommender: Recommender) -> None:
    candidates = [{"text": "tea", "context": {"price": 4, "bought": 3}}, {"text": "tea", "context": "price 4",
                  "features": {"price": 4}}, {"text": "tea"}]  # fmt: skip
    found = recommender.explain({}, candidates, explain=[0, 1, 2]).candidates
    told = [[one for one in each.contributions if one.part.where in ("context", "number")] for each in found]
    assert [[(one.part.where, one.part.text) for one in each] for each in told] == [
        [("context", "price 4"), ("number", "bought 3")],
        [("context", "price 4"), ("number", "price 4")],
        [],
    ]
    alone = [recommender.score({}, [{"text": "tea", "context": {"price": 4, "bought": 3}}, *candidates[1:]])]
    for left in ({"bought": 3}, {"price": 4}):
        alone.append(recommender.score({}, [{"text": "tea", "context": left}, *candidates[1:]]))
    whole, *without = (ranking.given[0].log_probabilities["ctr"] for ranking in alone)
    for contribution, log in zip(told[0], without, strict=True):
        assert contribution.objectives["ctr"] == pytest.approx(whole - log, abs=1e-5)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"prices": None}, "prices is missing"),
        ({"goal": "joy"}, "goal is 'joy'"),
        ({"field": "weight"}, "field is 'weight', which this export does not read: use one of price, cost, bought"),
        ({"goal": "profit"}, r"candidates\[0\].cost is missing"),
        ({"candidates": []}, "candidates is empty"),
        ({"candidates": None}, "candidates is null"),
        ({"candidates": [{"item_id": "i1", "cost": -1}]}, r"candidates\[0\].cost is -1"),
        ({"candidates": [{"item_id": "i1", "cost": "1"}]}, r"candidates\[0\].cost is a text"),
        ({"candidates": [{"item_id": "i1", "size": 3}]}, "unknown key 'size'"),
        ({"candidates": [{"item_id": "i1", "context": "price 3"}]}, "is a ready text, which tells the price"),
        ({"candidates": [{"item_id": "i1", "context": {"price": 0}}]}, "context.price is '0'"),
        ({"candidates": ["i1"] * 30, "prices": list(range(1, 100))}, "more than 2,048 pairs"),
        ({"omega": {"diversity": 1}}, "unknown key 'omega'"),
        ({"candidates": ["nothing"]}, "which this export does not know"),
    ],
)
def test_malformed_requests_get_one_sentence(recommender: Recommender, change: dict, sentence: str) -> None:
    request = {"user": USER, "candidates": ["i1"], "prices": [1, 2], **change}
    with pytest.raises(RequestError, match=sentence):
        recommender.prepare_prices(request)


def test_an_export_without_a_price_refuses(tiny_export: Callable) -> None:
    with pytest.raises(RequestError, match="does not read: use one of seen_before"):
        Recommender.load(tiny_export("llama").folder).price({}, ["i1"], prices=[1])


def test_other_attention_prices_alike(priced_run: Callable, recommender: Recommender) -> None:
    masked = Recommender.load(priced_run("llama").export)
    masked._scorer._cached = None
    with masked._scorer.model.backbone.using("sdpa"):
        one, other = (r.price(USER, ["i1", "i2"], prices=[2, 5]).to_json() for r in (masked, recommender))
    for a, b in zip(one["candidates"], other["candidates"], strict=True):
        assert a["demand"] == pytest.approx(b["demand"], rel=1e-4)
