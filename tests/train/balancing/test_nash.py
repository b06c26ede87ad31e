"""The bargaining solution: closed forms, and a general minimiser of its potential."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import minimize

from equipoise.train.balancing.common_directions import mgda, nash
from equipoise.train.balancing.gradient_stats import GradientStats


def test_two_objectives_of_equal_power_weigh_one_over_their_norms(
    make_problem: Callable[..., GradientStats],
) -> None:
    rng = np.random.default_rng(6)
    for _ in range(30):
        g = rng.standard_normal((2, 3)) * 10.0 ** rng.uniform(-4, 4, (2, 1))
        alpha = nash(make_problem(g))
        inverse = 1 / np.linalg.norm(g, axis=1)
        np.testing.assert_allclose(alpha, inverse / inverse.sum(), rtol=1e-10)


def test_two_objectives_of_unequal_power(make_problem: Callable[..., GradientStats]) -> None:
    # β₁² + cβ₁β₂ = p₁ and β₂² + cβ₁β₂ = p₂: with x = β₁β₂, (p₁ − cx)(p₂ − cx) = x².
    for angle in (0.3, 1.2, 2.0, 3.0):
        p, c = np.array([3.0, 0.5]), np.cos(angle)
        x = min(np.roots([c**2 - 1, -c * p.sum(), p.prod()]), key=lambda root: (root <= 0, abs(root)))
        beta = np.sqrt(p - c * x)
        g = np.array([[1.0, 0.0], [c, np.sin(angle)]]) * [[20.0], [0.1]]
        alpha = beta / [20.0, 0.1]
        np.testing.assert_allclose(nash(make_problem(g, p)), alpha / alpha.sum(), rtol=1e-9)


def test_a_general_minimiser_finds_the_same_point(make_problem: Callable[..., GradientStats]) -> None:
    rng = np.random.default_rng(7)
    for count in (3, 5, 8):
        g, p = rng.standard_normal((count, count + 2)), rng.uniform(0.3, 3, count)
        gram = g @ g.T
        found = minimize(
            lambda y, m=gram, p=p: 0.5 * np.exp(y) @ m @ np.exp(y) - p @ y,
            np.zeros(count),
            jac=lambda y, m=gram, p=p: np.exp(y) * (m @ np.exp(y)) - p,
            method="BFGS",
            options={"gtol": 1e-9},
        )
        expected = np.exp(found.x) / np.exp(found.x).sum()
        np.testing.assert_allclose(nash(make_problem(g, p)), expected, rtol=1e-6)


@pytest.mark.parametrize("vectors", [[[4.0, 0.0], [-1.0, 0.0]], [[1.0, 0.0], [-1.0, 1.0], [0.0, -1.0]]])
def test_where_no_direction_helps_all_there_is_no_step(
    make_problem: Callable[..., GradientStats], vectors: list
) -> None:
    alpha = nash(make_problem(vectors))
    np.testing.assert_allclose(alpha @ np.array(vectors), 0.0, atol=1e-14)
    assert alpha.sum() == pytest.approx(1.0)


def test_it_tends_to_the_min_norm_point_before_it_gets_there(make_problem: Callable[..., GradientStats]) -> None:
    distances = []
    for height in (1e-1, 1e-3, 1e-5):
        stats = make_problem([[1.0, height], [-1.0, 2 * height], [0.4, 1.0]])
        distances.append(np.abs(nash(stats) - mgda(stats)).max())
    assert distances[0] > 10 * distances[1] > 100 * distances[2]
