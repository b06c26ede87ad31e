"""Estimates next to the truth: exactly, over all lists of small slates, and by counting intervals."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.evaluation.ope.estimators import Judge
from equipoise.evaluation.ope.shown import CLICKS, ShownLists

PLACES = 2


def lists_of(utility: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All lists of two places: the candidates (L, 2), the propensities of places (L, 2), and of the lists (L,)."""
    weight = np.exp(utility / temperature)
    orders = np.array(list(itertools.permutations(range(len(utility)), PLACES)))
    first = weight[orders[:, 0]] / weight.sum()
    second = weight[orders[:, 1]] / (weight.sum() - weight[orders[:, 0]])
    return orders, np.stack([first, second], 1), first * second


def every_list(
    utility: np.ndarray,
    temperature: float,
    earns: Callable[[np.ndarray], np.ndarray],
    pctr: np.ndarray,
    times: int = 1,
) -> tuple[ShownLists, np.ndarray]:
    """`times` users for each list that can be drawn, with what it earns on average, and how likely it is."""
    orders, places, chance = (np.repeat(part, times, axis=0) for part in lists_of(utility, temperature))
    chance = chance / times
    count = len(orders)
    table = np.tile(utility, (count, 1))
    shown = ShownLists(
        filled_RC=np.ones(table.shape, bool), base_RC=table, list_utility_RC=table, delta={}, attributes={},
        probability={"ctr": np.tile(pctr, (count, 1))}, value_RC=np.full(table.shape, np.nan), order_RK=orders,
        propensity_RK=places, temperature_R=np.full(count, temperature),
        rewards={CLICKS: np.array([earns(order) for order in orders])}, request=np.arange(count).astype(object),
        items_RC=np.tile(np.arange(len(utility)).astype(object), (count, 1)), cluster_R=np.arange(count), skipped={},
        version="v",
    )  # fmt: skip
    return shown, chance


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(-3, 3), min_size=2, max_size=4),
    st.floats(0.5, 2),
    st.sampled_from(["item", "cascade", "slate"]),
    st.integers(0, 10_000),
)
def test_ips_and_dr_are_unbiased(utilities: list[float], temperature: float, assumption: str, seed: int) -> None:
    """Rewards depend on what the assumption allows; the model of dr is arbitrary."""
    utility, rng = np.array(utilities), np.random.default_rng(seed)
    count = len(utility)
    of_place, of_pair = rng.random((count, PLACES)), rng.random((count, count))

    def earns(order: np.ndarray) -> np.ndarray:
        own = of_place[order, np.arange(PLACES)]
        if assumption != "item":  # the second place also by what is above it
            own = own + np.array([0.0, of_pair[order[0], order[1]]])
        if assumption == "slate":  # the first place also by what is below it
            own = own + np.array([of_pair[order[1], order[0]], 0.0])
        return own

    # Two users for each list, one in either half: the model's rates are the same constants for both.
    shown, chance = every_list(utility, temperature, earns, rng.random(count), times=2)
    judge = Judge(shown, assumption)
    judged = rng.permutation(count)[:PLACES]
    order_RK = np.tile(judged, (len(shown), 1))
    weight_RK = judge.weights(order_RK)
    assert chance @ weight_RK == pytest.approx(np.ones(PLACES), rel=1e-6)
    truth = earns(judged).sum()
    for estimator in ("ips", "dr"):
        found = judge.estimate(order_RK, weight_RK, CLICKS, estimator)
        each_R = found.value + found.influence_R
        assert chance @ each_R == pytest.approx(truth, rel=1e-6)


def test_two_candidates_by_hand() -> None:
    """Weights 3 and 1: the list 0, 1 has propensity 3/4, and earns 1 and 0.5; the other one 0.2 and 0.4.

    Judged is 1, 0: its weights are 4 where it was shown, and it is shown in a fourth of the requests.
    """
    utility = np.log([3.0, 1.0])
    earns = {(0, 1): [1.0, 0.5], (1, 0): [0.2, 0.4]}
    shown, chance = every_list(utility, 1.0, lambda order: np.array(earns[tuple(order.tolist())]), np.array([0.5, 0.5]))
    assert chance == pytest.approx([0.75, 0.25])
    for assumption in ("item", "cascade", "slate"):
        judge = Judge(shown, assumption)
        weight_RK = judge.weights(np.array([[1, 0], [1, 0]]))
        # With two candidates the second place follows from the first one.
        assert weight_RK == pytest.approx(np.array([[0.0, 0.0], [4.0, 4.0]]), rel=1e-6)
        ips = judge.estimate(np.array([[1, 0], [1, 0]]), weight_RK, CLICKS, "ips")
        assert ips.value == pytest.approx((0 + 4 * 0.6) / 2)  # the two requests count alike here
        snips = judge.estimate(np.array([[1, 0], [1, 0]]), weight_RK, CLICKS, "snips")
        assert snips.value == pytest.approx(0.6)
        # Rates of the other half over what the model expects: 1/.5 and .5/.5, or .2/.5 and .4/.5, times .5 each.
        dr = judge.estimate(np.array([[1, 0], [1, 0]]), weight_RK, CLICKS, "dr")
        first = 0.2 + 0.4
        second = (1.0 + 4 * (0.2 - 1.0)) + (0.5 + 4 * (0.4 - 0.5))
        assert dr.value == pytest.approx((first + second) / 2)
        assert judge.support(weight_RK).effective_K == pytest.approx([1.0, 1.0])
        assert "too rarely" in str(judge.support(weight_RK).refusal)


def drawn_log(rng: np.random.Generator, requests: int, users: int, wrong: float = 1.0) -> tuple[ShownLists, np.ndarray]:
    """Requests of users who differ, with lists drawn at 0.8, said to be drawn at 0.8 · wrong; truth: of 0, 1, 2."""
    user = rng.integers(0, users, requests)
    liking = np.random.default_rng(5).normal(0, 0.7, 400)[user]
    utility_RC = np.tile([0.3, 0.0, -0.3, -0.2], (requests, 1))
    order_RK = np.argsort(-(utility_RC / 0.8 + rng.gumbel(size=utility_RC.shape)), axis=1)[:, :3]
    chance_RC = 1 / (1 + np.exp(-(np.array([0.5, -0.5, 1.0, 0.0]) + liking[:, None])))
    looked_K = np.array([1.0, 0.6, 0.4])
    click_RK = rng.random(order_RK.shape) < looked_K * np.take_along_axis(chance_RC, order_RK, 1)
    shown = ShownLists(
        filled_RC=np.ones(utility_RC.shape, bool), base_RC=utility_RC, list_utility_RC=utility_RC, delta={},
        attributes={}, probability={"ctr": np.tile([0.6, 0.4, 0.7, 0.5], (requests, 1))},
        value_RC=np.full(utility_RC.shape, np.nan), order_RK=order_RK, propensity_RK=np.ones(order_RK.shape),
        temperature_R=np.full(requests, 0.8 * wrong), rewards={CLICKS: click_RK.astype(float)},
        request=np.arange(requests).astype(object), items_RC=np.zeros(utility_RC.shape, object),
        cluster_R=np.unique(user, return_inverse=True)[1], skipped={}, version="v",
    )  # fmt: skip
    return shown, (looked_K * chance_RC[:, :3])


def test_standard_errors_are_those_of_repetitions() -> None:
    """How often intervals hold the truth is measured by benchmarks.daily_ope."""
    truth = drawn_log(np.random.default_rng(99), 200_000, 400)[1].sum(1).mean()
    found: dict[str, list[tuple[float, float]]] = {"dr": [], "snips": [], "ips": []}
    order_RK = np.tile([0, 1, 2], (300, 1))
    for seed in range(50):
        judge = Judge(drawn_log(np.random.default_rng(seed), 300, 400)[0])
        weight_RK = judge.weights(order_RK)
        for name, estimates in found.items():
            estimate = judge.estimate(order_RK, weight_RK, CLICKS, name)
            estimates.append((estimate.value, estimate.standard_error))
    for name, estimates in found.items():
        values, errors = np.array(estimates).T
        assert abs(values.mean() - truth) < 4 * values.std() / np.sqrt(50), name
        assert errors.mean() == pytest.approx(values.std(ddof=1), rel=0.3), name


def test_differences_are_paired_and_resamples_spread_as_intervals_say() -> None:
    judge = Judge(drawn_log(np.random.default_rng(1), 4000, 400)[0])
    lists = [np.tile(order, (4000, 1)) for order in ([0, 1, 2], [0, 1, 3])]
    one, other = (judge.estimate(order, judge.weights(order), CLICKS) for order in lists)
    paired = judge.difference(one, other)
    apart = np.hypot(one.standard_error, other.standard_error)
    assert paired.value == pytest.approx(one.value - other.value) and paired.standard_error < 0.8 * apart
    assert judge.difference(one, one).standard_error == 0
    draws = np.random.default_rng(0).multinomial(judge.users, np.full(judge.users, 1 / judge.users), 2000)
    assert judge.resampled(one, draws).std() == pytest.approx(one.standard_error, rel=0.1)


def test_a_log_that_was_drawn_otherwise_is_noticed() -> None:
    order = np.tile([0, 1, 2], (3000, 1))
    for wrong, noticed in ((1.0, False), (0.4, True)):
        judge = Judge(drawn_log(np.random.default_rng(2), 3000, 400, wrong)[0])
        warning = judge.support(judge.weights(order)).warning
        assert ("instead of 1" in str(warning)) == noticed
