"""Slates under caps, beside all slates that there are."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise.common.errors import UserError
from equipoise.serving.allocation import Cap, allocate, fill, violations


def best(shopper: np.ndarray, gain: np.ndarray, top: int, caps: list[Cap]) -> float | None:
    """The largest gain of all 2^N choices that break nothing, None where there is none."""
    found = [
        float(gain[chosen].sum())
        for bits in product([False, True], repeat=len(gain))
        if not violations(chosen := np.array(bits, dtype=bool), shopper, top, caps)
    ]
    return max(found, default=None)


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int, list[Cap]]:
    count = draw(st.integers(1, 9))
    shopper = np.array(draw(st.lists(st.integers(0, 2), min_size=count, max_size=count)))
    gains = st.one_of(st.just(0.0), st.sampled_from([1e-9, 1.0, 1.0]), st.floats(1e-4, 10.0))
    gain = np.array(draw(st.lists(gains, min_size=count, max_size=count)))
    caps = []
    for number in range(draw(st.integers(0, 4))):
        members = np.array(sorted(draw(st.sets(st.integers(0, count - 1)))), dtype=np.int64)
        most = draw(st.one_of(st.none(), st.integers(0, 4)))
        least = draw(st.sampled_from([0, 0, 0, 1, 2]))
        caps.append(Cap(f"group {number}", members, most, least))
    return shopper, gain, draw(st.integers(1, 3)), caps


@given(problems())
def test_no_slates_are_better_and_no_cap_is_exceeded(problem: tuple) -> None:
    shopper, gain, top, caps = problem
    truth = best(*problem)
    if truth is None:
        with pytest.raises(UserError):
            allocate(*problem)
        return
    found = allocate(*problem)
    assert violations(found.chosen, shopper, top, caps) == 0
    assert found.value == pytest.approx(gain[found.chosen].sum())
    assert found.value >= truth * (1 - 1e-4) - 1e-6
    assert found.value <= truth + 1e-9 and found.bound >= truth * (1 - 1e-6) - 1e-6
    assert 0 <= found.gap <= 1e-3 or found.value < 1e-6


def test_a_cap_is_paid_where_it_costs_least() -> None:
    # Both want item a; it can be shown once, and the second shopper has the better way out.
    shopper, gain = np.array([0, 0, 1, 1]), np.array([1.0, 0.1, 1.2, 0.9])
    caps = [Cap("a", np.array([0, 2]), most=1)]
    assert allocate(shopper, gain, 1, caps).chosen.tolist() == [True, False, False, True]
    assert fill(shopper, gain, 1, caps).tolist() == [False, True, True, False]  # greedy takes 1.2 first


def test_minimums_are_kept_and_impossible_ones_named() -> None:
    shopper, gain = np.array([0, 0, 1, 1]), np.array([1.0, 0.1, 1.0, 0.2])
    found = allocate(shopper, gain, 1, [Cap("private", np.array([1, 3]), least=1)])
    assert found.chosen.tolist() == [True, False, False, True]
    with pytest.raises(UserError, match="private is to be shown at least 3 times, but can be 2 times"):
        allocate(shopper, gain, 1, [Cap("private", np.array([1, 3]), least=3)])
    with pytest.raises(UserError, match="no slates keep all minimums"):
        allocate(shopper, gain, 1, [Cap("x", np.array([0, 2]), least=2), Cap("y", np.array([1, 3]), least=1)])


def test_overlapping_groups_of_many_shoppers_end_near_their_bound() -> None:
    rng = np.random.default_rng(3)
    shopper, gain = np.repeat(np.arange(60), 15), rng.lognormal(size=900)
    item, brand = rng.integers(0, 30, 900), rng.integers(0, 4, 900)
    caps = [Cap(f"item {n}", np.flatnonzero(item == n), most=6) for n in range(30)]
    caps += [Cap(f"brand {n}", np.flatnonzero(brand == n), most=35, least=10) for n in range(4)]
    found = allocate(shopper, gain, 3, caps)
    assert violations(found.chosen, shopper, 3, caps) == 0
    assert found.gap < 1e-3
    assert found.value > gain[fill(shopper, gain, 3, caps)].sum()


def test_a_senseless_gain_is_refused() -> None:
    with pytest.raises(ValueError, match="not negative"):
        allocate(np.array([0]), np.array([-1.0]), 1, [])
