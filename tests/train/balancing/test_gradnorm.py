"""GradNorm against autograd of the paper's loss, on the gradients of a real function."""

from collections.abc import Callable

import numpy as np
import torch

from equipoise.configs.balancing import GradnormOptions
from equipoise.train.balancing.gradient_stats import GradientStats
from equipoise.train.balancing.loss_weightings import Gradnorm

Make = Callable[..., GradientStats]


def task_losses(theta: torch.Tensor) -> torch.Tensor:
    matrix = torch.arange(12, dtype=torch.float64).reshape(3, 4).sin()
    return ((matrix @ theta) ** 2 + torch.tensor([0.1, 0.5, 1.0])) * torch.tensor([1.0, 30.0, 0.01])


def test_it_steps_down_the_gradient_of_the_papers_loss(make_problem: Make) -> None:
    lr, power, preference = 0.1, 1.5, torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    method = Gradnorm(GradnormOptions(lr=lr, alpha=power))
    theta = torch.tensor([1.0, -2.0, 0.5, 1.5], dtype=torch.float64, requires_grad=True)
    wish = preference / preference.mean()
    log_w, first, decided = wish.log(), task_losses(theta).detach(), 0
    for step in range(30):
        losses = task_losses(theta)
        gradients = [torch.autograd.grad(loss, theta, retain_graph=True)[0] for loss in losses]
        log_w = log_w.detach().requires_grad_()
        w = log_w.exp()
        norms = torch.stack(
            [
                torch.autograd.grad(w_k * loss, theta, create_graph=True)[0].norm()
                for w_k, loss in zip(w, losses, strict=True)
            ]
        )
        rate = (losses / first).detach()
        target = (norms.mean() * wish * (rate / rate.mean()) ** power).detach()
        decided += int(not torch.allclose(norms, target, rtol=1e-3))
        (slope,) = torch.autograd.grad((norms - target).abs().sum(), log_w)

        stats = make_problem(
            torch.stack(gradients).numpy(), preference.numpy(), losses=losses.detach().numpy(), step=step
        )
        np.testing.assert_allclose(method.compute_weights(stats), w.detach().numpy(), rtol=1e-9)

        moved = (log_w - lr * slope / norms.mean()).detach()
        log_w = torch.log_softmax(moved, 0) + np.log(3)
        direction = sum(w_k * g for w_k, g in zip(w.detach(), gradients, strict=True))
        theta = (theta - 0.01 * direction).detach().requires_grad_()
    assert decided > 20


def test_norms_come_to_the_ratio_of_the_preference(make_problem: Make) -> None:
    method = Gradnorm(GradnormOptions(lr=0.02))
    for norms in (np.array([1.0, 1e-4, 1e3]), np.array([1e3, 1e-7, 1.0])):
        stats = make_problem(np.diag(norms), [1.0, 2.0, 4.0])
        for _ in range(1500):
            alpha = method.compute_weights(stats)
        scaled = alpha * norms
        np.testing.assert_allclose(scaled / scaled.sum(), [1 / 7, 2 / 7, 4 / 7], rtol=0.15)  # ± a step of the sign
        np.testing.assert_allclose(alpha.sum(), 3, rtol=1e-12)


def test_the_slowest_learner_gains(make_problem: Make) -> None:
    method = Gradnorm(GradnormOptions())
    for step, losses in enumerate([[1.0, 4.0], [0.2, 3.9], [0.2, 3.9], [0.2, 3.9]]):
        alpha = method.compute_weights(make_problem(np.eye(2), losses=losses, step=step))
    assert alpha[1] > 1 > alpha[0]


def test_a_missing_objective_keeps_its_weight_and_its_first_loss(make_problem: Make) -> None:
    method = Gradnorm(GradnormOptions())
    for step in range(5):
        method.compute_weights(make_problem(np.diag([1.0, 5.0, 2.0]), losses=[1.0, 2.0 - step / 10, 3.0], step=step))
    kept = method.state()["log_w"]["b"]
    method.compute_weights(make_problem(np.eye(2), losses=[9.0, 9.0], names=["a", "c"]))
    assert method.state()["log_w"]["b"] == kept
    assert method.state()["first"] == {"a": 1.0, "b": 2.0, "c": 3.0}
