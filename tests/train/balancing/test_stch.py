"""Smooth Tchebycheff against autograd of the paper's function and TorchJD."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torchjd.scalarization import STCH

from equipoise.train.balancing.gradient_stats import GradientStats
from equipoise.train.balancing.loss_weightings import stch

Make = Callable[..., GradientStats]


@pytest.mark.parametrize("mu", [0.01, 0.1, 1.0])
def test_it_is_the_gradient_of_the_function(make_problem: Make, mu: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):
        losses, preference = rng.uniform(0, 2, 4), rng.uniform(0.2, 3, 4)
        stats = make_problem(rng.standard_normal((4, 5)), preference, losses=losses)
        weight = torch.tensor(preference / preference.sum())
        for function in (
            STCH(mu, weights=weight, reference=torch.full((4,), -0.5, dtype=torch.float64)),
            lambda f, w=weight: mu * torch.log(torch.exp(w * (f + 0.5) / mu).sum()),
        ):
            values = torch.tensor(losses - 0.5, requires_grad=True)  # lower bounds of −0.5
            function(values).backward()
            assert values.grad is not None
            np.testing.assert_allclose(stch(stats, mu), values.grad.numpy(), rtol=1e-9, atol=1e-300)


def test_a_small_mu_is_the_worst_loss_alone(make_problem: Make) -> None:
    alpha = stch(make_problem(np.eye(3), [1, 1, 2], losses=[1e8, 1.0, 0.6e8]), 1e-3)
    assert alpha.tolist() == [0.0, 0.0, 0.5]
    np.testing.assert_allclose(stch(make_problem(np.eye(2), losses=[1.0, 5.0]), 1e9), 0.25, rtol=1e-8)
