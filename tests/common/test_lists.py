"""Lists that are filled place after place, beside a list-maker in plain Python that tries every candidate."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise.common.lists import (
    ListMaker,
    ListRule,
    ListTerm,
    discounts,
    filled,
    group_prices,
    one_request,
    pad,
    path_numbers,
    worth,
)

RULE = ListRule(
    4,
    {
        "diversity": ListTerm("spread", ("department", "category")),
        "fairness": ListTerm("price", ("provider",), {"a": 0.0, "b": 0.8}),
        "own": ListTerm("adjust"),
    },
)
VALUES = {
    "department": ["food", "food", "food", "home", "home", "toys"],
    "category": ["tea", "tea", "soup", "soup", "lamp", "lamp"],
    "provider": ["a", "b", "a", "unknown", "b", "a"],
}
UTILITY = [-1.0, -1.1, -2.0, -2.2, -2.5, -4.0]
DELTA = {
    "diversity": [0.0, 0.5, -0.3, 0.0, 9.0, -9.0],
    "fairness": [0.1, 0.0, -0.2, 0.0, 0.0, 0.3],
    "own": [0.0] * 6,
}


def alike(i: int, j: int) -> float:
    """Share of the path that agrees from the coarse end: soup of food is not soup of the home."""
    same = VALUES["department"][i] == VALUES["department"][j]
    return (same + (same and VALUES["category"][i] == VALUES["category"][j])) / 2


def by_hand(omega: dict[str, float], count: int) -> tuple[list[int], list[dict[str, float]]]:
    """The list, and what each place's candidate counted by objective."""
    places = RULE.places
    discount = [1 / math.log2(place + 2) for place in range(10)]
    ideal = sum(d * math.exp(u) for d, u in zip(discount[:places], sorted(UTILITY, reverse=True), strict=False))
    chosen: list[int] = []
    terms = []
    for place in range(count):
        best = None
        for i in [i for i in range(6) if i not in chosen]:
            price = {"a": 0.0, "b": 0.8}.get(VALUES["provider"][i], 0.0) + DELTA["fairness"][i]
            wish = math.exp(min(max(DELTA["diversity"][i], -3), 3))
            apart = sum(1 - alike(i, j) for j in chosen)
            counted = {
                "relevance": discount[place] * math.exp(UTILITY[i]) / ideal,
                "fairness": discount[place] * omega["fairness"] * price / sum(discount[:places]),
                "diversity": omega["diversity"] * wish * 2 / (places * (places - 1)) * apart,
            }
            if best is None or sum(counted.values()) > sum(best[1].values()) + 1e-12:
                best = (i, counted)
        assert best is not None
        chosen.append(best[0])
        terms.append(best[1])
    return chosen, terms


@pytest.mark.parametrize("count", [1, 4, 6])
@pytest.mark.parametrize("diversity", [0.0, 0.3, 3.0])
@pytest.mark.parametrize("fairness", [0.0, 0.5, 4.0])
def test_each_place_gets_the_best_of_what_is_left(diversity: float, fairness: float, count: int) -> None:
    omega = {"diversity": diversity, "fairness": fairness, "own": 0.0}
    made = one_request(RULE, DELTA, VALUES)(np.array([UTILITY]), omega, count)
    chosen, terms = by_hand(omega, count)
    assert made.order_RP[0].tolist() == chosen
    for name in ("relevance", "fairness", *(["diversity"] if diversity else [])):
        np.testing.assert_allclose(made.terms[name][0], [each[name] for each in terms], atol=1e-12)


def test_worth_and_distances_add_up_to_the_metrics() -> None:
    """Of the ideal list Σ d w is 1; the diversity terms of a list of K add up to ω · ILD@K where δ is 0."""
    maker = one_request(RULE, {name: [0.0] * 6 for name in DELTA}, VALUES)
    made = maker(np.array([UTILITY]), {"diversity": 0.0, "fairness": 0.0, "own": 0.0})
    assert made.terms["relevance"].sum() == pytest.approx(1.0) and made.order_RP[0].tolist() == [0, 1, 2, 3]
    made = maker(np.array([UTILITY]), {"diversity": 2.0, "fairness": 0.0, "own": 0.0})
    pairs = list(itertools.combinations(made.order_RP[0].tolist(), 2))
    ild = sum(1 - alike(i, j) for i, j in pairs) / len(pairs)
    assert made.terms["diversity"].sum() == pytest.approx(2.0 * ild)
    assert made.terms["relevance"].sum() <= 1.0


def test_requests_of_other_lengths_do_not_touch_each_other() -> None:
    rng = np.random.default_rng(3)
    sizes = np.array([5, 1, 9, 3])
    count = int(sizes.sum())
    utility, delta = rng.normal(size=count), {"diversity": rng.normal(size=count), "fairness": rng.normal(size=count)}
    codes = [rng.integers(0, 3, count), rng.integers(0, 4, count)]
    price = rng.random(count)
    rule = ListRule(3, {name: RULE.terms[name] for name in ("diversity", "fairness")})
    omega = {"diversity": 0.7, "fairness": 0.4}
    paths, utility_RC = path_numbers(codes), pad(utility, sizes, -np.inf)
    padded = {name: pad(values, sizes, 0.0) for name, values in delta.items()}
    together = ListMaker(
        rule, filled(sizes), padded, {"fairness": pad(price, sizes, 0.0)}, {"diversity": pad(paths, sizes, -1)}
    )
    order_RP, scores_RC = together(utility_RC, omega).order_RP, together.scores(utility_RC, omega)
    first = 0
    for row, size in enumerate(sizes):
        part = slice(first, first + size)
        own = {name: values[None, part] for name, values in delta.items()}
        alone = ListMaker(
            rule, np.ones((1, size), bool), own, {"fairness": price[None, part]}, {"diversity": paths[None, part]}
        )
        found = alone(utility[None, part], omega)
        shown = min(size, 3)
        assert order_RP[row, :shown].tolist() == found.order_RP[0].tolist() and (order_RP[row, shown:] == -1).all()
        placed = np.argsort(-scores_RC[row, :size], kind="stable")
        assert placed[:shown].tolist() == found.order_RP[0].tolist()
        rest = [i for i in np.argsort(-found.rest_RC[0], kind="stable") if i not in found.order_RP[0]]
        assert placed[shown:].tolist() == rest
        first += size


def test_without_weights_lists_are_sorted_by_utility_and_keep_ties() -> None:
    utility = np.array([[0.1, 0.3, 0.3, -5.0]])
    rule = ListRule(2, {"diversity": ListTerm("spread", ("department",))})
    maker = one_request(rule, {"diversity": [0.0] * 4}, {"department": ["x", "x", "y", "y"]})
    assert maker.scores(utility, {"diversity": 0.0}) is utility
    assert not RULE.active({"diversity": 0.0, "own": 2.0}) and RULE.active({"fairness": 0.1})


def test_candidates_alike_in_all_share_their_place_where_only_prices_count() -> None:
    maker = one_request(
        ListRule(2, {"fairness": RULE.terms["fairness"]}), {"fairness": [0.0] * 3}, {"provider": ["a", "b", "b"]}
    )
    scores = maker.scores(np.array([[0.0, -1.0, -1.0]]), {"fairness": 0.5})
    assert scores[0, 1] == scores[0, 2]


@given(
    st.lists(st.floats(-800, 50), min_size=1, max_size=8),
    st.integers(1, 5),
)
def test_worth_is_a_share_of_the_ideal_list(utility: list[float], places: int) -> None:
    found = worth(np.array([utility]), np.ones((1, len(utility)), bool), places)[0]
    assert np.isfinite(found).all() and (found >= 0).all()
    best = np.sort(found)[::-1][:places]
    assert best @ discounts(len(best)) == pytest.approx(1.0)
    order = np.argsort(utility)
    assert (np.diff(found[order]) >= 0).all()


def test_prices_say_how_weak_a_group_is() -> None:
    """Exposed half as much as it is due against the strongest: 0.5; a tiny lucky group is not the measure."""
    found = group_prices(np.array([0.6, 0.2, 0.0, 0.2]), np.array([0.495, 0.33, 0.17, 0.005]))
    np.testing.assert_allclose(found, [0.0, 1 - (0.2 / 0.33) / (0.6 / 0.495), 1.0, 0.0], atol=1e-9)
    assert group_prices(np.zeros(2), np.array([0.0, 1.0])).tolist() == [0.0, 1.0]


def test_a_rule_survives_json() -> None:
    assert ListRule.of(RULE.to_json()) == RULE and ListRule.of(None) is None
    assert RULE.attributes() == ["department", "category", "provider"]
    assert RULE.attributes({"fairness": 1.0, "diversity": 0.0}) == ["provider"]
