"""The toy problem: its gradients, its front, and runs of real methods on it."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from benchmarks.toy import Adam, figures_of, follow
from benchmarks.toy_picture import draw
from benchmarks.toy_problem import LEAST, STARTS, distance_to_front, losses_and_gradients, pareto_set


def _reference(x: torch.Tensor) -> torch.Tensor:
    """The problem in torch, as the papers write it."""
    x1, x2 = x[0], x[1]
    c1, c2 = torch.clamp(torch.tanh(x2 / 2), 0), torch.clamp(torch.tanh(-x2 / 2), 0)
    f1 = torch.clamp((0.5 * (-x1 - 7) - torch.tanh(-x2)).abs(), 5e-6).log() + 6
    f2 = torch.clamp((0.5 * (-x1 + 3) + torch.tanh(-x2) + 2).abs(), 5e-6).log() + 6
    g1 = ((-x1 + 7) ** 2 + 0.1 * (-x2 - 8) ** 2) / 10 - 20
    g2 = ((-x1 - 7) ** 2 + 0.1 * (-x2 - 8) ** 2) / 10 - 20
    return torch.stack([c1 * f1 + c2 * g1, c1 * f2 + c2 * g2])


def test_losses_and_gradients_are_those_of_autograd():
    rng = np.random.default_rng(0)
    in_the_valley = [-7 + 2 * np.tanh(3.0), 3.0]
    points = np.concatenate([STARTS, rng.uniform(-10, 10, (60, 2)), [in_the_valley]])
    losses, gradients = losses_and_gradients(points)
    for point, loss, gradient in zip(points, losses, gradients, strict=True):
        x = torch.tensor(point, requires_grad=True)
        expected = _reference(x)
        jacobian = torch.stack([torch.autograd.grad(expected[k], x, retain_graph=True)[0] for k in range(2)])
        np.testing.assert_allclose(loss, expected.detach().numpy(), rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(gradient, jacobian.numpy(), rtol=1e-7, atol=1e-9)


def test_no_point_of_a_dense_grid_beats_the_front():
    front = losses_and_gradients(pareto_set(2001))[0]
    assert (np.diff(front[:, 0]) > 0).all() and (np.diff(front[:, 1]) < 0).all()
    x1, x2 = np.linspace(-12, 12, 961), np.linspace(-14, 12, 1041)
    losses = losses_and_gradients(np.stack(np.meshgrid(x1, x2), -1).reshape(-1, 2))[0]
    assert (losses > LEAST).all()
    # L2 of the front at the same L1; left of the front nothing lies.
    at = np.interp(losses[:, 0], front[:, 0], front[:, 1], left=np.inf, right=front[-1, 1])
    chord = 1e-4  # the polyline between neighbours lies above the curve
    assert (losses[losses[:, 0] < front[0, 0] - chord].size) == 0
    reached = losses[:, 0] >= front[0, 0]
    assert (losses[reached, 1] >= at[reached] - chord).all()
    # And the front is attained: the grid comes close to it.
    near = losses[np.argsort(losses.sum(-1))[:200]]
    assert distance_to_front(near, front).min() < 1e-2


def test_distance_is_zero_on_the_front_and_euclidean_off_it():
    front = np.array([[0.0, 2.0], [1.0, 1.0], [3.0, 0.0]])
    found = distance_to_front(np.array([[1.0, 1.0], [0.5, 1.5], [2.0, 2.0], [3.0, 5.0], [4.0, 0.0]]), front)
    np.testing.assert_allclose(found[[0, 1, 4]], [0.0, 0.0, 1.0], atol=1e-12)
    assert 1.0 < found[2] < np.sqrt(2) + 1e-12  # nearer to the second piece than to its corner
    assert distance_to_front(np.array([0.0, 3.0]), front) == pytest.approx(1.0)


def test_adam_is_that_of_torch():
    rng = np.random.default_rng(1)
    ours, theirs = Adam(STARTS, 0.1), torch.tensor(STARTS, requires_grad=True)
    optimizer = torch.optim.Adam([theirs], lr=0.1)
    for _ in range(5):
        gradient = rng.normal(size=STARTS.shape)
        ours.step(gradient)
        theirs.grad = torch.from_numpy(gradient)
        optimizer.step()
    np.testing.assert_allclose(ours.points, theirs.detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize("method", ["weighted", "mgda"])
def test_methods_move_downhill(method):
    path = follow(method, steps=300)
    assert path.points.shape == (301, 5, 2) and path.losses.shape == (301, 5, 2)
    assert (path.points[0] == STARTS).all()
    below = path.losses[-1, [1, 3, 4]]  # in the lower half both losses fall, or the mean does
    assert (below.mean(-1) < path.losses[0, [1, 3, 4]].mean(-1)).all()
    if method == "mgda":
        assert (path.losses[-1, 1] < path.losses[0, 1]).all()


def test_figures_hold_every_method_and_start_and_the_picture_is_drawn(tmp_path):
    front = losses_and_gradients(pareto_set(101))[0]
    path = follow("pcgrad", steps=3)
    names = {entry["name"] for entry in figures_of([path], front)}
    for start in range(1, 6):
        assert {f"pcgrad_start{start}_{what}" for what in ("final_x1", "final_x2", "distance_to_front")} <= names
    picture = tmp_path / "toy.png"
    draw(picture, [("pcgrad", path.points, path.losses, np.zeros(5))])
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_command_runs_all_methods(tmp_path):
    command = [sys.executable, "-m", "benchmarks.toy", "--json", str(tmp_path / "toy.json"), "--steps", "5"]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    from equipoise.train.balancing.registry import METHODS

    figures = json.loads((tmp_path / "toy.json").read_text())["figures"]
    assert {entry["method"] for entry in figures} == set(METHODS)
