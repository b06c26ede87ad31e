"""CAGrad against its dual in one variable, against a general solver, and against TorchJD."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torchjd.aggregation import CAGradWeighting

from equipoise.train.balancing.common_directions import cagrad
from equipoise.train.balancing.gradient_stats import GradientStats


def mean_of(g: np.ndarray, p: np.ndarray) -> np.ndarray:
    return p @ g / p.sum()


@pytest.mark.parametrize("c", [0.1, 0.4, 0.9])
def test_two_objectives_against_the_dual(make_problem: Callable[..., GradientStats], c: float) -> None:
    rng = np.random.default_rng(3)
    for _ in range(30):
        g, p = rng.standard_normal((2, 3)) * 10.0 ** rng.uniform(-1, 1, (2, 1)), rng.uniform(0.3, 3, 2)
        middle, radius = mean_of(g, p), c * np.linalg.norm(mean_of(g, p))

        def dual(w: float, g: np.ndarray = g, p: np.ndarray = p, middle=middle, radius=radius) -> float:
            mixed = w * g[0] / p[0] + (1 - w) * g[1] / p[1]
            return float(mixed @ middle + radius * np.linalg.norm(mixed))

        best = minimize_scalar(dual, bounds=(0, 1), method="bounded", options={"xatol": 1e-12})
        least = min(best.fun, dual(0.0), dual(1.0))
        d = cagrad(make_problem(g, p), c) @ g
        size = np.abs(g).max()
        assert np.linalg.norm(d - middle) <= radius + 1e-13 * size
        assert (g @ d / p).min() == pytest.approx(least, abs=1e-9 * size**2)  # strong duality: it cannot be better


def test_no_point_of_the_ball_helps_the_worst_off_more(make_problem: Callable[..., GradientStats]) -> None:
    rng = np.random.default_rng(4)
    for size in (2, 3, 6):  # two of the three with dependent gradients
        g, p = rng.standard_normal((5, size)), rng.uniform(0.3, 3, 5)
        middle = mean_of(g, p)
        d = cagrad(make_problem(g, p), 0.5) @ g
        steps = rng.standard_normal((200_000, size))
        steps /= np.linalg.norm(steps, axis=1, keepdims=True)
        ball = middle + 0.5 * np.linalg.norm(middle) * steps * rng.uniform(0, 1, (len(steps), 1)) ** (1 / size)
        assert (g @ d / p).min() >= (ball @ g.T / p).min(1).max() - 1e-13


def test_it_agrees_with_torchjd(make_problem: Callable[..., GradientStats]) -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        count = int(rng.integers(2, 8))
        g = rng.standard_normal((count, 2 * count))
        theirs = CAGradWeighting(c=0.4)(torch.from_numpy(g @ g.T)).numpy()
        np.testing.assert_allclose(cagrad(make_problem(g), 0.4) @ g, theirs @ g, atol=1e-4)


def test_by_hand(make_problem: Callable[..., GradientStats]) -> None:
    g = np.array([[2.0, 0.0], [0.0, 2.0]])
    np.testing.assert_allclose(cagrad(make_problem(g), 0.0), [0.5, 0.5])
    # From (1, 1) all progress lies along (1, 1) itself.
    np.testing.assert_allclose(cagrad(make_problem(g), 0.5) @ g, [1.5, 1.5], atol=1e-14)
    # From (2, 1) the second is worse off, and the ball has radius 0.2·√5.
    g = np.array([[4.0, 0.0], [0.0, 2.0]])
    np.testing.assert_allclose(cagrad(make_problem(g), 0.2) @ g, [2.0, 1 + 0.2 * 5**0.5], atol=1e-14)
    assert cagrad(make_problem([[3.0, 1.0]], [7.0]), 0.4) == pytest.approx([1.4])


def test_where_no_direction_helps_all_the_worst_off_is_not_harmed_if_the_ball_reaches(
    make_problem: Callable[..., GradientStats],
) -> None:
    g = np.array([[1.0, 0.0], [-1.2, 0.0], [0.0, 3.0]])
    d = cagrad(make_problem(g), 0.4) @ g
    np.testing.assert_allclose(d, [0.0, 1.0], atol=1e-14)  # g0 = (−1/15, 1)
    d = cagrad(make_problem(g), 0.01) @ g  # too small a ball: as far as it goes towards (0, 1)
    assert np.linalg.norm(d - mean_of(g, np.ones(3))) == pytest.approx(0.01 * np.linalg.norm(mean_of(g, np.ones(3))))
    assert -1 / 15 < d[0] < 0
