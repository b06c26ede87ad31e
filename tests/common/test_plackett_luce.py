"""Propensities next to all lists of few candidates."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.common.plackett_luce import draw_order, place_log_propensities, position_propensities


def lists_of(utility: np.ndarray, temperature: float) -> dict[tuple[int, ...], float]:
    """Every whole list and its probability, by the definition."""
    weight = np.exp(utility / temperature)
    found = {}
    for order in itertools.permutations(range(len(utility))):
        chance = 1.0
        for place, candidate in enumerate(order):
            chance *= weight[candidate] / weight[list(order[place:])].sum()
        found[order] = chance
    return found


def test_three_candidates_by_hand() -> None:
    """Weights 1, 2 and 3: 3/6 · 2/3 is the list 2, 1, 0; candidate 0 is second after 1 (2/6 · 1/4) or 2 (3/6 · 1/3)."""
    utility = np.log([1.0, 2.0, 3.0])
    logs = place_log_propensities(utility, np.array([2, 1, 0]), 1.0)
    assert np.exp(logs) == pytest.approx([1 / 2, 2 / 3, 1.0])
    assert np.exp(place_log_propensities(utility, np.array([2]), 1.0)) == pytest.approx([1 / 2])
    places = position_propensities(utility[None], np.array([[2, 0, -1]]), 1.0)
    assert places == pytest.approx(np.array([[1 / 2, 2 / 6 / 4 + 3 / 6 / 3, 0.0]]), abs=1e-7)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(-5, 5), min_size=2, max_size=5),
    st.floats(0.3, 3),
    st.randoms(use_true_random=False),
)
def test_places_next_to_all_lists(utilities: list[float], temperature: float, random: object) -> None:
    utility = np.array(utilities)
    every = lists_of(utility, temperature)
    assert sum(every.values()) == pytest.approx(1)
    order = list(range(len(utility)))
    random.shuffle(order)  # type: ignore[attr-defined]
    logs = place_log_propensities(utility, np.array(order), temperature)
    assert logs.sum() == pytest.approx(math.log(every[tuple(order)]), rel=1e-9, abs=1e-9)
    expected = [sum(p for each, p in every.items() if each[k] == i) for k, i in enumerate(order)]
    padded = np.concatenate([utility, [-np.inf, -np.inf]])[None]
    found = position_propensities(padded, np.array([order]), temperature)[0]
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_many_candidates_far_apart_fill_each_place_once() -> None:
    utility = np.random.default_rng(0).normal(0, 8, 40)
    order = np.repeat(np.arange(40)[:, None], 6, axis=1)
    assert position_propensities(np.tile(utility, (40, 1)), order, 0.7).sum(0) == pytest.approx(np.ones(6), abs=1e-6)


def test_draws_come_as_often_as_they_should() -> None:
    utility, rng = np.array([0.0, 1.0, 0.3]), np.random.default_rng(3)
    every, count = lists_of(utility, 0.8), 6_000
    drawn = [tuple(draw_order(utility, 0.8, rng).tolist()) for _ in range(count)]
    for order, chance in every.items():
        assert abs(drawn.count(order) / count - chance) < 4.5 * math.sqrt(chance * (1 - chance) / count)


def test_temperature_0_is_the_sorted_list() -> None:
    rng = np.random.default_rng(0)
    assert draw_order(np.array([1.0, 2.0, 2.0, 0.5]), 0.0, rng).tolist() == [1, 2, 0, 3]
    with pytest.raises(ValueError, match="above 0"):
        place_log_propensities(np.array([1.0, 2.0]), np.array([0]), 0.0)
    with pytest.raises(ValueError, match="above 0"):
        position_propensities(np.array([[1.0, 2.0]]), np.array([[0]]), 0.0)
