"""FAMO against TorchJD's, and its promise: log losses fall at rates proportional to the preference."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torchjd.scalarization import FAMO

from equipoise.configs.balancing import FamoOptions
from equipoise.train.balancing.gradient_stats import GradientStats
from equipoise.train.balancing.loss_weightings import Famo

Make = Callable[..., GradientStats]
NAMES = ("a", "b", "c")


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def named(values: np.ndarray) -> dict[str, float]:
    return dict(zip(NAMES, values.tolist(), strict=True))


@pytest.mark.usefixtures("float64")
def test_it_is_torchjds(make_problem: Make) -> None:
    rng = np.random.default_rng(0)
    method, theirs = Famo(FamoOptions(lr=0.05, decay=0.01)), FAMO(3, lr=0.05, weight_decay=0.01)
    for step in range(50):
        losses = rng.uniform(0.1, 3, 3)
        after = losses * rng.uniform(0.5, 1.1, 3) * [0.7, 1.0, 1.0]
        values = torch.tensor(losses, requires_grad=True)
        theirs(values).backward()
        assert values.grad is not None
        alpha = method.compute_weights(make_problem(np.eye(3), losses=losses, step=step))
        np.testing.assert_allclose(alpha, values.grad.numpy(), rtol=1e-9)
        theirs.update(torch.tensor(after))
        method.after_step(named(losses), named(after))
    np.testing.assert_allclose(alpha.sum(), 1, rtol=1e-14)


def test_log_losses_fall_at_the_rates_of_the_preference(make_problem: Make) -> None:
    """ℓ_k = exp(−c_k x_k): log losses are linear and independent, so any rates could be had."""
    slopes, preference = np.array([1.0, 3.0, 0.5]), np.array([1.0, 2.0, 4.0])
    method, fall = Famo(FamoOptions(lr=0.01, decay=0.0)), np.zeros(3)
    logs = np.zeros(3)
    for step in range(4000):
        losses = np.exp(logs)
        alpha = method.compute_weights(make_problem(np.diag(slopes * losses), preference, losses=losses, step=step))
        change = -1e-3 * alpha * slopes**2 * losses
        method.after_step(named(losses), named(np.exp(logs + change)))
        if step >= 3500:
            fall -= change
        logs = logs + change
    np.testing.assert_allclose(fall / fall.sum(), preference / preference.sum(), rtol=0.02)


def test_who_was_not_moved_does_not_learn(make_problem: Make) -> None:
    method = Famo(FamoOptions(lr=0.1, decay=0.0))
    everyone = named(np.array([1.0, 1.0, 1.0]))
    method.compute_weights(make_problem(np.eye(2), names=["a", "c"]))
    method.after_step(everyone, named(np.array([0.5, 0.1, 0.9])))
    alpha = method.compute_weights(make_problem(np.eye(3)))
    assert alpha[0] < alpha[1] < alpha[2]  # `a` fell fastest, `b` stayed at the uniform weight
    assert "b" not in method.state()["w"]
    before = method.state()
    method.after_step({}, {})  # no loss was finite
    assert method.state() == before


def test_losses_at_their_bounds_stay_finite(make_problem: Make) -> None:
    method = Famo(FamoOptions())
    for _ in range(3):
        alpha = method.compute_weights(make_problem(np.eye(2), losses=[0.0, 1.0]))
        assert np.isfinite(alpha).all()
        method.after_step({"a": 0.0, "b": 1.0}, {"a": -1e-6, "b": 0.0})  # below the bound by rounding
