"""α-fairness: its limits, a closed form, a general minimiser, and TorchJD."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torchjd.aggregation import FairGradWeighting

from equipoise.train.balancing.common_directions import fairgrad, mgda, nash
from equipoise.train.balancing.gradient_stats import GradientStats


def test_alpha_1_is_nash(make_problem: Callable[..., GradientStats]) -> None:
    rng = np.random.default_rng(8)
    stats = make_problem(rng.standard_normal((5, 7)) * 10.0 ** rng.uniform(-2, 2, (5, 1)), rng.uniform(0.3, 3, 5))
    np.testing.assert_array_equal(fairgrad(stats, 1.0), nash(stats))


@pytest.mark.parametrize("alpha", [0.5, 2.0, 5.0])
def test_orthogonal_gradients_have_a_closed_form(make_problem: Callable[..., GradientStats], alpha: float) -> None:
    norms, p = np.array([1e-3, 1.0, 40.0]), np.array([0.5, 1.0, 3.0])
    w = (p / norms ** (2 * alpha)) ** (1 / (1 + alpha))  # n² w = (p / w)^(1/α)
    np.testing.assert_allclose(fairgrad(make_problem(np.diag(norms), p), alpha), w / w.sum(), rtol=1e-11)


def test_small_alpha_is_the_sum_and_large_alpha_max_min(make_problem: Callable[..., GradientStats]) -> None:
    rng = np.random.default_rng(9)
    stats = make_problem(rng.standard_normal((4, 6)) + 0.5, [1.0, 2.0, 0.5, 1.0])
    np.testing.assert_allclose(fairgrad(stats, 1e-3), stats.preference / stats.preference.sum(), rtol=0.05)
    stats = make_problem(rng.standard_normal((4, 6)) + 0.5)
    far = [np.abs(fairgrad(stats, alpha) - mgda(stats)).max() for alpha in (2.0, 10.0, 50.0)]
    assert far[0] > far[1] > far[2]
    assert far[2] < 0.02


@pytest.mark.parametrize("alpha", [0.5, 2.0, 5.0])
def test_a_general_minimiser_finds_the_same_point(make_problem: Callable[..., GradientStats], alpha: float) -> None:
    rng = np.random.default_rng(10)
    for count in (2, 4, 7):
        g, p = rng.standard_normal((count, count + 3)), rng.uniform(0.3, 3, count)
        gram, power = g @ g.T, 1 / alpha
        found = minimize(  # ½ wᵀGw − Σ p^(1/α) w^(1−1/α) / (1−1/α), in log w
            lambda y, m=gram, q=p**power, r=1 - power: 0.5 * np.exp(y) @ m @ np.exp(y) - q @ np.exp(r * y) / r,
            np.zeros(count),
            jac=lambda y, m=gram, q=p**power, r=1 - power: np.exp(y) * (m @ np.exp(y)) - q * np.exp(r * y),
            method="BFGS",
            options={"gtol": 1e-9},
        )
        expected = np.exp(found.x) / np.exp(found.x).sum()
        np.testing.assert_allclose(fairgrad(make_problem(g, p), alpha), expected, rtol=1e-6)


def test_it_agrees_with_torchjd(make_problem: Callable[..., GradientStats]) -> None:
    rng = np.random.default_rng(11)
    for _ in range(10):
        count = int(rng.integers(2, 7))
        g = rng.standard_normal((count, 2 * count))
        theirs = FairGradWeighting(alpha=2.0)(torch.from_numpy(g @ g.T)).numpy()
        np.testing.assert_allclose(fairgrad(make_problem(g), 2.0), theirs / theirs.sum(), rtol=1e-3)
