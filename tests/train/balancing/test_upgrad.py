"""UPGrad against its closed form for two objectives and against TorchJD."""

from collections.abc import Callable

import numpy as np
import torch
from torchjd.aggregation import UPGradWeighting
from torchjd.linalg import QuadprogProjector

from equipoise.train.balancing.conflict_projections import upgrad
from equipoise.train.balancing.gradient_stats import GradientStats


def test_two_that_conflict_each_lose_their_part_along_the_other(make_problem: Callable[..., GradientStats]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        g = rng.standard_normal((2, 3)) * 10.0 ** rng.uniform(-3, 3, (2, 1))
        if g[0] @ g[1] > 0:
            g[1] = -g[1]
        p = rng.uniform(0.2, 5, 2)
        first = g[0] - g[0] @ g[1] / (g[1] @ g[1]) * g[1]
        second = g[1] - g[0] @ g[1] / (g[0] @ g[0]) * g[0]
        expected = p[0] * first + p[1] * second
        np.testing.assert_allclose(upgrad(make_problem(g, p)) @ g, expected, atol=1e-13 * np.abs(p @ np.abs(g)).max())


def test_the_preference_itself_where_nothing_conflicts(make_problem: Callable[..., GradientStats]) -> None:
    stats = make_problem([[1.0, 0.1], [0.3, 70.0], [2.0, 2.0]], [0.3, 5.0, 1.0])
    assert upgrad(stats).tolist() == [0.3, 5.0, 1.0]


def test_opposed_gradients_cancel_and_a_third_goes_on(make_problem: Callable[..., GradientStats]) -> None:
    g = np.array([[3.0, 0.0], [-1.0, 0.0], [0.0, 2.0]])
    np.testing.assert_allclose(upgrad(make_problem(g)) @ g, [0.0, 2.0], atol=1e-14)


def test_it_agrees_with_torchjd(make_problem: Callable[..., GradientStats]) -> None:
    rng = np.random.default_rng(1)
    for _ in range(30):
        count = int(rng.integers(2, 9))
        g, p = rng.standard_normal((count, 2 * count)), rng.uniform(0.3, 3, count)
        weighting = UPGradWeighting(torch.from_numpy(p), QuadprogProjector(reg_eps=1e-12))
        theirs = weighting(torch.from_numpy(g @ g.T)).numpy()
        np.testing.assert_allclose(upgrad(make_problem(g, p)), theirs, rtol=1e-7)
