"""Uncertainty weighting against autograd of the paper's loss and torch's Adam."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from equipoise.configs.balancing import UncertaintyOptions
from equipoise.train.balancing.gradient_stats import GradientStats
from equipoise.train.balancing.loss_weightings import LARGEST_LOG_VARIANCE, Uncertainty

Make = Callable[..., GradientStats]


def test_it_is_the_papers_loss_under_torchs_adam(make_problem: Make) -> None:
    rng = np.random.default_rng(0)
    method = Uncertainty(UncertaintyOptions(lr=0.03))
    s = [torch.zeros((), dtype=torch.float64, requires_grad=True) for _ in range(3)]
    optimizer = torch.optim.Adam(s, lr=0.03)
    preference = np.array([1.0, 2.0, 0.5])
    for step in range(40):
        rows = [0, 2] if step in (3, 4, 11) else [0, 1, 2]  # the second has no gradient in some steps
        values = torch.tensor(rng.uniform(0.1, 3, 3), requires_grad=True)
        loss = sum(0.5 * torch.exp(-s[k]) * values[k] + 0.5 * s[k] for k in rows)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        assert values.grad is not None
        expected = values.grad.numpy()[rows] * preference[rows]
        optimizer.step()
        stats = make_problem(
            np.eye(3)[rows], preference[rows], losses=values.detach().numpy()[rows], names=np.array(list("abc"))[rows]
        )
        np.testing.assert_allclose(method.compute_weights(stats), expected, rtol=1e-12)


def test_at_rest_the_variance_is_the_loss(make_problem: Make) -> None:
    method = Uncertainty(UncertaintyOptions(lr=0.02))
    stats = make_problem(np.eye(2), [1.0, 3.0], losses=[0.2, 5.0])
    for _ in range(2000):
        alpha = method.compute_weights(stats)
    np.testing.assert_allclose(alpha, [0.5 / 0.2, 3 * 0.5 / 5.0], rtol=1e-3)


def test_a_loss_of_zero_is_bounded(make_problem: Make) -> None:
    method = Uncertainty(UncertaintyOptions(lr=1.0))
    for _ in range(100):
        alpha = method.compute_weights(make_problem(np.eye(2), losses=[0.0, 1.0]))
    assert alpha[0] == pytest.approx(0.5 * math.exp(LARGEST_LOG_VARIANCE))
