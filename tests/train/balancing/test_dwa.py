"""Dynamic weight average against TorchJD's, and windows of several solves per step."""

from collections.abc import Callable

import numpy as np
import torch
from torchjd.scalarization import DWA

from equipoise.configs.balancing import DwaOptions
from equipoise.train.balancing.gradient_stats import GradientStats
from equipoise.train.balancing.loss_weightings import Dwa

Make = Callable[..., GradientStats]


def test_it_is_torchjds(make_problem: Make) -> None:
    rng = np.random.default_rng(0)
    method, theirs = Dwa(DwaOptions(temperature=1.5, window=4)), DWA(temperature=1.5)
    preference = np.array([1.0, 2.0, 0.5])
    for step in range(24):
        if step and step % 4 == 0:
            theirs.step()
        for _ in range(2):  # two micro-batches per step
            losses = rng.uniform(0.5, 1.5, 3) * 0.95**step
            values = torch.tensor(losses, requires_grad=True)
            theirs(values).backward()
            assert values.grad is not None
            alpha = method.compute_weights(make_problem(np.eye(3), preference, losses=losses, step=step))
            np.testing.assert_allclose(alpha, values.grad.numpy() * preference, rtol=1e-12)
    assert np.ptp(values.grad.numpy()) > 0.01


def test_by_hand(make_problem: Make) -> None:
    method = Dwa(DwaOptions(temperature=2.0, window=1))
    for step, losses in enumerate([[1.0, 1.0], [1.0, 0.5]]):
        assert method.compute_weights(make_problem(np.eye(2), losses=losses, step=step)).tolist() == [1.0, 1.0]
    shares = np.exp([1.0 / 2, 0.5 / 2])
    alpha = method.compute_weights(make_problem(np.eye(2), [1.0, 3.0], losses=[9.0, 9.0], step=2))
    np.testing.assert_allclose(alpha, np.array([2.0, 6.0]) * shares / shares.sum(), rtol=1e-14)


def test_an_objective_that_a_window_never_saw_keeps_its_rate(make_problem: Make) -> None:
    method, both = Dwa(DwaOptions(window=1)), np.eye(2)
    for step, losses in enumerate([[1.0, 1.0], [0.9, 0.5], [0.9, 0.4]]):
        method.compute_weights(make_problem(both, losses=losses, step=step))
    method.compute_weights(make_problem(both[:1], losses=[0.8], step=3))  # closes the third window
    alpha = method.compute_weights(make_problem(both, losses=[1.0, 1.0], step=4))  # closes one that saw `a` alone
    shares = np.exp(np.array([0.8 / 0.9, 0.4 / 0.5]) / 2)
    np.testing.assert_allclose(alpha, 2 * shares / shares.sum(), rtol=1e-14)


def test_a_mean_of_zero_makes_no_infinite_rate(make_problem: Make) -> None:
    for nothing in (0.0, 1e-320):
        method = Dwa(DwaOptions(window=1))
        for step, losses in enumerate([[0.0, nothing], [0.0, 1.0]]):
            method.compute_weights(make_problem(np.eye(2), losses=losses, step=step))
        alpha = method.compute_weights(make_problem(np.eye(2), losses=[1.0, 1.0], step=2))
        assert alpha[1] == 2.0  # it rose from nothing: all of the weight
