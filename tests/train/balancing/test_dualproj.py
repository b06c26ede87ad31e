"""The projection of the fixed combination: by hand, against a general solver and against TorchJD."""

from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import minimize
from torchjd.aggregation import DualProjWeighting
from torchjd.linalg import QuadprogProjector

from equipoise.train.balancing.conflict_projections import dualproj
from equipoise.train.balancing.gradient_stats import GradientStats


def test_by_hand(make_problem: Callable[..., GradientStats]) -> None:
    agreeing = make_problem([[1.0, 0.1], [0.3, 70.0]], [0.3, 5.0])
    assert dualproj(agreeing).tolist() == [0.3, 5.0]
    g = np.array([[4.0, 0.0], [-1.0, 1.0]])  # their sum (3, 1) harms the second: nearest is (2, 2)
    np.testing.assert_allclose(dualproj(make_problem(g)) @ g, [2.0, 2.0], atol=1e-14)
    opposed = np.array([[4.0, 0.0], [-1.0, 0.0]])
    np.testing.assert_allclose(dualproj(make_problem(opposed)) @ opposed, [0.0, 0.0], atol=1e-14)


def test_no_other_harmless_direction_is_nearer(make_problem: Callable[..., GradientStats]) -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        g, p = rng.standard_normal((4, 3)), rng.uniform(0.2, 5, 4)
        g *= rng.uniform(0.1, 10, (4, 1))
        target, unit = p @ g, g / np.linalg.norm(g, axis=1, keepdims=True)
        d = dualproj(make_problem(g, p)) @ g
        found = minimize(
            lambda x, t=target: ((x - t) ** 2).sum(),
            np.zeros(3),
            jac=lambda x, t=target: 2 * (x - t),
            constraints={"type": "ineq", "fun": lambda x, u=unit: u @ x, "jac": lambda x, u=unit: u},
        )
        assert np.linalg.norm(d - target) <= np.linalg.norm(found.x - target) + 1e-6
        np.testing.assert_allclose(d, found.x, atol=1e-5 * np.linalg.norm(target))


def test_it_agrees_with_torchjd(make_problem: Callable[..., GradientStats]) -> None:
    rng = np.random.default_rng(1)
    for _ in range(30):
        count = int(rng.integers(2, 9))
        g, p = rng.standard_normal((count, 2 * count)), rng.uniform(0.3, 3, count)
        weighting = DualProjWeighting(torch.from_numpy(p), QuadprogProjector(reg_eps=1e-12))
        theirs = weighting(torch.from_numpy(g @ g.T)).numpy()
        np.testing.assert_allclose(dualproj(make_problem(g, p)), theirs, rtol=1e-7)
