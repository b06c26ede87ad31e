"""When a change of price is advised: limits, evidence of the response, bounds, and force."""

import numpy as np
import pytest

from equipoise.serving.price_limits import PriceLimits, read_limits
from equipoise.serving.price_response import Replicates, evidence_of
from equipoise.serving.pricing import AskedPrices, PriceQuestion, Pricing
from equipoise.serving.request_error import RequestError
from equipoise.serving.requests import ReadRequest

PRICES = [1.0, 1.5, 2.0, 2.5, 3.0]
FALLING = [0.5, 0.42, 0.3, 0.15, 0.05]


def price(
    demand: list[float],
    slopes: tuple[float, float] = (-2.0, 0.1),
    overall: float = -2.0,
    force: bool = False,
    within: tuple[float, ...] | None = None,
    others: int = 0,
) -> Pricing:
    """One candidate, now at 2, cost 1, and others that are priced at a bound; elasticities are normal draws."""
    draws = np.random.default_rng(0).normal(*slopes, 400)
    moved = draws[:, None] * np.log(np.array(PRICES) / 2)
    steady = np.exp(-0.01 * np.arange(5))
    replicates = Replicates({"ctr": np.tile(moved, 1 + others)}, np.full(400, overall))
    asked = AskedPrices("tea", PRICES, 2.0, 1.0, within)
    questions = (asked, *[AskedPrices("soap", PRICES, 2.0, 1.0)] * others)
    question = PriceQuestion(
        ReadRequest("r", "", [], {}, None), "profit", questions, None, force=force, replicates=replicates
    )
    # Resampled demand is log-linear here, so that elasticities are the draws.
    resampled = np.tile(0.2 * np.exp(moved), 1 + others)
    return question.answer([*demand, *(0.4 * steady).tolist() * others], resampled)


def test_a_shown_response_is_advised_with_its_intervals() -> None:
    answer = price([0.5, 0.45, 0.2, 0.1, 0.05])
    one = answer.candidates[0]
    assert one.price == one.best == 1.5 and one.withheld is None and answer.note is None
    assert answer.resamples == 400 and answer.elasticity is not None and answer.elasticity.high == -2.0
    assert one.evidence is not None and one.evidence.elasticity is not None and one.evidence.price is not None
    assert one.evidence.elasticity.low == pytest.approx(-2.2, abs=0.03)
    assert one.evidence.elasticity.high == pytest.approx(-1.8, abs=0.03)
    # (p − 1) p^e is largest at e / (e + 1), near 2 for e near −2.
    assert one.evidence.price.low <= 2.0 <= one.evidence.price.high
    assert one.evidence.gain is not None and one.evidence.gain.low <= one.evidence.gain.high


@pytest.mark.parametrize(("slopes", "overall"), [((-0.5, 0.5), -2.0), ((-2.0, 0.1), 0.1)])
def test_present_prices_stay_where_the_data_show_no_response(slopes: tuple[float, float], overall: float) -> None:
    """Of the candidate, or over all the training data."""
    answer = price([0.5, 0.45, 0.2, 0.1, 0.05], slopes, overall)
    one = answer.candidates[0]
    assert one.price == 2.0 and one.best == 1.5 and one.withheld == "response" and one.demand == pytest.approx(0.2)
    assert answer.note is not None and "do not show that demand answers to the price for 1 of 1" in answer.note
    forced = price([0.5, 0.45, 0.2, 0.1, 0.05], slopes, overall, force=True)
    assert forced.candidates[0].price == 1.5 and forced.note is None


def test_demand_that_does_not_fall_is_no_response_even_without_resamples() -> None:
    read = ReadRequest("r", "", [], {}, None)
    question = PriceQuestion(read, "profit", (AskedPrices("tea", PRICES, None, 1.0),), None)
    one = question.answer([0.1, 0.2, 0.3, 0.4, 0.5]).candidates[0]
    assert one.price is None and one.expected is None and one.best == 3.0 and one.withheld == "response"
    assert question.answer([0.5, 0.45, 0.2, 0.1, 0.05]).candidates[0].price == 1.5
    assert question.answer([0.5, 0.45, 0.2, 0.1, 0.05]).candidates[0].evidence is None


def test_choices_at_the_bounds_everywhere_are_withheld() -> None:
    steady = [0.3, 0.29, 0.28, 0.27, 0.26]
    answer = price(steady, others=2)
    assert {one.withheld for one in answer.candidates} == {"bounds"} and {one.price for one in answer.candidates} == {
        2.0
    }
    assert answer.note is not None and "lies at a bound" in answer.note
    assert price(steady, others=2, force=True).candidates[0].price == 3.0
    inside = price([0.5, 0.45, 0.2, 0.1, 0.05], others=2)
    assert [one.withheld for one in inside.candidates] == [None] * 3  # one of them turns inside


def test_a_limit_of_change_neither_hides_the_bounds_nor_makes_them() -> None:
    """The best price of all lies inside; the nearest within the limit is advised though it is the limit's bound."""
    answer = price([0.5, 0.45, 0.2, 0.1, 0.05], within=(2.0, 2.5))
    assert answer.candidates[0].withheld is None and answer.candidates[0].price == 2.0
    none = price([0.5, 0.45, 0.2, 0.1, 0.05], within=())
    assert none.candidates[0].withheld == "limits" and none.candidates[0].price == 2.0
    assert none.note is not None and "leave no price to 1 of 1" in none.note


def test_the_shop_s_own_margin_is_no_bound_of_the_data() -> None:
    """The best price is the lowest that the margin leaves, where cheaper ones were allowed."""
    read, demand = ReadRequest("r", "", [], {}, None), [0.5, 0.3, 0.2, 0.1, 0.05]
    cut = AskedPrices("tea", PRICES, 2.0, 0.0, range=(0.5, 3.0))
    assert PriceQuestion(read, "revenue", (cut,), None).answer(demand).candidates[0].withheld is None
    whole = AskedPrices("tea", PRICES, 2.0, 0.0)
    assert PriceQuestion(read, "revenue", (whole,), None).answer(demand).candidates[0].withheld == "bounds"


def test_the_interval_of_the_price_holds_the_best_of_most_resamples() -> None:
    generator, prices = np.random.default_rng(1), np.linspace(1, 4, 61)
    slopes = generator.normal(-2.0, 0.15, 1000)
    demand = prices[None] ** slopes[:, None]
    found = evidence_of(demand, prices, 1.0, np.ones(61, bool), 20, 10)
    best = prices[((prices - 1.0) * demand).argmax(1)]
    assert found.price is not None and (best >= found.price.low).mean() > 0.97
    inside = ((best >= found.price.low) & (best <= found.price.high)).mean()
    assert 0.94 < inside < 0.985
    narrow = evidence_of(demand, prices, 1.0, prices < 1.5, 5, 10)
    assert narrow.price is not None and narrow.price.high < 1.5


def test_endings_are_the_nearest_between_the_bounds() -> None:
    assert PriceLimits(endings=(0.49, 0.99)).rounded([3.0, 3.3, 3.6, 4.2]) == [3.49, 3.99]
    assert PriceLimits(endings=(9.0,)).rounded([112.0, 118.0, 140.0]) == [119.0, 139.0]
    assert PriceLimits(endings=(0.0, 0.5)).rounded([1.2, 2.0]) == [1.5, 2.0]
    assert PriceLimits(endings=(0.99,)).rounded([3.1, 3.2]) == []
    assert PriceLimits().rounded([2.0, 1.0, 2.0]) == [1.0, 2.0]


def test_margins_and_changes_leave_what_they_say() -> None:
    assert PriceLimits(min_margin=0.5).with_margin([1.0, 2.0, 4.0], 1.0) == [2.0, 4.0]
    assert PriceLimits(max_change=0.1).within_change([1.8, 2.0, 2.2, 2.21], 2.0) == [1.8, 2.0, 2.2]
    assert PriceLimits().within_change([9.0], 2.0) == [9.0]


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ({"min_margin": 1}, "min_margin is 1: give a share"),
        ({"max_change": 0}, "max_change is 0"),
        ({"endings": [1000]}, r"endings\[0\] is 1000"),
        ({"endings": 0.99}, "endings is"),
        ({"endings": [0.1] * 101}, "has 101 entries"),
    ],
)
def test_malformed_limits_get_one_sentence(request_: dict, sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        read_limits(request_)
