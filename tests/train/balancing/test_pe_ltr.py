"""Min-norm with floors: a closed form for two, a general solver, and its ends."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from equipoise.train.balancing.common_directions import mgda
from equipoise.train.balancing.gradient_stats import GradientStats
from equipoise.train.balancing.priorities import pe_ltr


@pytest.mark.parametrize("floor", [0.1, 0.4, 0.8])
def test_two_objectives(make_problem: Callable[..., GradientStats], floor: float) -> None:
    rng, at_an_end = np.random.default_rng(17), 0
    for _ in range(50):
        g, p = rng.standard_normal((2, 3)) * 10.0 ** rng.uniform(-1, 1, (2, 1)), rng.uniform(0.3, 3, 2)
        least = floor * p / p.sum()
        free = (g[1] - g[0]) @ g[1] / ((g[1] - g[0]) @ (g[1] - g[0]))  # ‖w g₁ + (1 − w) g₂‖² is a parabola
        w = np.clip(free, least[0], 1 - least[1])
        at_an_end += w != free
        np.testing.assert_allclose(pe_ltr(make_problem(g, p), floor), [w, 1 - w], atol=1e-12)
    assert 5 < at_an_end < 50


def test_a_general_solver_finds_no_shorter_one(make_problem: Callable[..., GradientStats]) -> None:
    rng = np.random.default_rng(18)
    for _ in range(20):
        count, floor = int(rng.integers(3, 8)), float(rng.uniform(0.1, 0.9))
        g, p = rng.standard_normal((count, int(rng.integers(2, 9)))), rng.uniform(0.3, 3, count)
        g *= rng.uniform(0.3, 3, (count, 1))
        gram, least = g @ g.T, floor * p / p.sum()
        found = minimize(
            lambda w, m=gram: w @ m @ w,
            p / p.sum(),
            jac=lambda w, m=gram: 2 * m @ w,
            bounds=[(x, 1) for x in least],
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
            options={"ftol": 1e-13},
        )
        assert found.success
        w = pe_ltr(make_problem(g, p), floor)
        assert (w >= least - 1e-15).all()
        assert w.sum() == pytest.approx(1.0, abs=1e-14)
        assert w @ gram @ w == pytest.approx(found.fun, rel=1e-6, abs=1e-9)
        assert w @ gram @ w <= found.fun + 1e-12


def test_its_ends_are_mgda_and_the_fixed_weights(make_problem: Callable[..., GradientStats]) -> None:
    rng = np.random.default_rng(19)
    for size in (2, 8):
        stats = make_problem(rng.standard_normal((4, size)), [1.0, 2.0, 3.0, 4.0])
        equal = replace(stats, preference=np.ones(4))
        np.testing.assert_array_equal(pe_ltr(stats, 0.0), mgda(equal))
        np.testing.assert_allclose(pe_ltr(stats, 1.0), [0.1, 0.2, 0.3, 0.4])
        near = pe_ltr(stats, 1e-9) @ stats.gram @ pe_ltr(stats, 1e-9)  # and does not jump at the end
        assert near == pytest.approx(mgda(equal) @ stats.gram @ mgda(equal), abs=1e-7)


def test_where_weights_of_a_zero_sum_are_left_they_cost_nothing(make_problem: Callable[..., GradientStats]) -> None:
    g = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(pe_ltr(make_problem(g, [1.0, 1.0, 2.0]), 0.4), [0.4, 0.4, 0.2], atol=1e-14)
    np.testing.assert_allclose(pe_ltr(make_problem(g, [4.0, 1.0, 5.0]), 0.4), [0.4, 0.4, 0.2], atol=1e-14)
