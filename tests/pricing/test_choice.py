import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise.serving.price_grid import allowed_prices
from equipoise.serving.pricing import AskedPrices, PriceQuestion, falling
from equipoise.serving.request_error import RequestError
from equipoise.serving.requests import ReadRequest

numbers = st.floats(0.01, 1000, allow_nan=False)
demands = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12)


def question(
    prices: list[float], cost: float, current: float | None = None, goal: str = "profit", force: bool = True
) -> PriceQuestion:
    read = ReadRequest("r", "", [], {}, None)
    return PriceQuestion(read, goal, (AskedPrices("tea", prices, current, cost),), (2.0, 5.0), force=force)  # type: ignore[arg-type]


def test_bounds_and_lists_and_factors_are_the_prices_that_they_say() -> None:
    assert allowed_prices("p", {"least": 3, "most": 4, "step": 0.25}, None, 9) == [3.0, 3.25, 3.5, 3.75, 4.0]
    assert allowed_prices("p", {"least": 0.1, "most": 0.35, "step": 0.1}, None, 9) == [0.1, 0.2, 0.3]
    assert allowed_prices("p", [5, 3.5, 5], None, 9) == [3.5, 5.0]
    assert allowed_prices("p", {"factors": [1.1, 0.9]}, 3.33, 9) == [3.0, 3.66]


@given(least=numbers, width=st.floats(0, 50), step=st.floats(0.05, 20))
def test_no_price_leaves_the_bounds(least: float, width: float, step: float) -> None:
    most = least + width
    prices = allowed_prices("p", {"least": least, "most": most, "step": step}, None, 5000)
    assert prices[0] == pytest.approx(least, abs=1e-9) and prices[-1] <= most
    assert most - prices[-1] < step * (1 + 1e-6) + 1e-9
    assert prices == sorted(set(prices))


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (3.5, "give a list of prices"),
        ([], "is empty"),
        ([1, -2], r"p\[1\] is -2: give a price above 0"),
        ([1, "2"], r"p\[1\] is a text"),
        ([1, float("nan")], "not a finite number"),
        ([True], "is true or false"),
        (list(range(1, 12)), "has 11 prices: give at most 9"),
        ({"least": 1, "most": 2}, "has no step"),
        ({"least": 3, "most": 2, "step": 1}, "least 3 above most 2"),
        ({"least": 1, "most": 2, "step": 0}, "p.step is 0"),
        ({"least": 1, "most": 1e9, "step": 1e-9}, "larger step"),
        ({"least": 1, "most": 2, "step": 1, "size": 3}, "unknown key 'size'"),
        ({"factors": [1], "least": 2}, "both factors and least"),
        ({"factors": [0]}, "above 0"),
    ],
)
def test_other_grids_are_refused(value: object, sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        allowed_prices("p", value, 4.0, 9)


def test_factors_need_a_current_price() -> None:
    with pytest.raises(RequestError, match="current price, which is unknown"):
        allowed_prices("p", {"factors": [1]}, None, 9)
    with pytest.raises(RequestError, match="lead to the price 0"):
        allowed_prices("p", {"factors": [0.1]}, 0.01, 9)


@given(demands, st.lists(st.floats(0.0, 1.0), min_size=12, max_size=12))
def test_falling_is_the_nearest_of_all_non_increasing_sequences(demand: list[float], other: list[float]) -> None:
    values = np.array(demand)
    fixed = falling(values)
    assert (
        (np.diff(fixed) <= 1e-12).all() and fixed.min() >= values.min() - 1e-12 and fixed.max() <= values.max() + 1e-12
    )
    rival = np.sort(other[: len(values)])[::-1]
    assert ((fixed - values) ** 2).sum() <= ((rival - values) ** 2).sum() + 1e-9
    np.testing.assert_allclose(falling(fixed), fixed, atol=1e-12)
    assert fixed.mean() == pytest.approx(values.mean())


@given(st.lists(numbers, min_size=1, max_size=10, unique=True), st.floats(0, 500), st.data())
def test_the_choice_is_allowed_and_no_allowed_price_earns_more(
    prices: list[float], cost: float, data: st.DataObject
) -> None:
    grid, current = sorted(prices), data.draw(st.none() | numbers)
    asked = question(grid, cost, current)
    size = len(asked.questions[0].asked)
    demand = data.draw(st.lists(st.floats(0.0, 1.0), min_size=size, max_size=size))
    priced = asked.answer(demand).candidates[0]
    assert priced.price in grid and [point.price for point in priced.curve] == grid
    assert all(point.expected <= priced.expected for point in priced.curve)
    assert priced.expected == pytest.approx((priced.price - cost) * priced.demand)
    assert (priced.current is None) == (current is None)
    assert priced.extrapolated == (not 2.0 <= priced.price <= 5.0)
    assert priced.largest_change >= 0 and (priced.largest_change > 1e-12) <= priced.rises


def test_a_demand_that_rises_is_flattened_before_the_choice_and_reported() -> None:
    priced = question([1.0, 2.0, 3.0], 0.0).answer([0.3, 0.1, 0.2]).candidates[0]
    assert [point.demand for point in priced.curve] == pytest.approx([0.3, 0.15, 0.15])
    assert priced.price == 3.0 and priced.expected == pytest.approx(0.45)  # not the 0.6 that the rise promised
    assert priced.rises and priced.largest_change == pytest.approx(0.05)


def test_the_lowest_of_equal_prices_is_chosen() -> None:
    assert question([1.0, 2.0], 0.0).answer([0.4, 0.2]).candidates[0].price == 1.0


def test_a_current_price_is_compared_but_not_chosen() -> None:
    priced = question([2.0, 4.0], 1.0, current=3.0).answer([0.5, 0.45, 0.1]).candidates[0]
    assert priced.current is not None and priced.current.expected == pytest.approx(0.9)
    assert priced.price == 2.0 and priced.expected == pytest.approx(0.5)
