"""Gradient Vaccine against algorithm 1 on real vectors, and against TorchJD."""

from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
import torch
from torchjd.aggregation import GradVacWeighting

from equipoise.configs.balancing import GradvacOptions
from equipoise.train.balancing.conflict_projections import CLOSEST, Gradvac, pcgrad
from equipoise.train.balancing.gradient_stats import GradientStats

Make = Callable[..., GradientStats]


def by_vectors(vectors: np.ndarray, target: np.ndarray, beta: float) -> np.ndarray:
    """Wang et al. 2021, algorithm 1, word for word, averaged over all orders; `target` is moved in place."""
    count = len(vectors)
    total, seen = np.zeros(vectors.shape[1]), np.zeros((count, count))
    for i in range(count):
        orders = list(permutations([j for j in range(count) if j != i]))
        for order in orders:
            changed = vectors[i].copy()
            for j in order:
                size, other = np.linalg.norm(changed), np.linalg.norm(vectors[j])
                phi, hat = changed @ vectors[j] / (size * other), target[i, j]
                if phi < hat:
                    sines = np.sqrt(1 - phi**2), np.sqrt(1 - hat**2)
                    changed = changed + size * (hat * sines[0] - phi * sines[1]) / (other * sines[1]) * vectors[j]
                seen[i, j] += phi / len(orders)
            total += changed / len(orders)
    target[:] = (1 - beta) * target + beta * seen
    np.fill_diagonal(target, 0.0)
    return total


@pytest.mark.parametrize("count", [2, 3, 4])
def test_it_is_the_algorithm(make_problem: Make, count: int) -> None:
    rng = np.random.default_rng(count)
    method, target = Gradvac(GradvacOptions(momentum=0.7)), np.zeros((count, count))
    common, above = rng.standard_normal(6), 0
    for step in range(15):
        vectors = (rng.standard_normal((count, 6)) + common) * 10.0 ** rng.uniform(-3, 3, (count, 1))
        above += int((target > 0.2).any())
        expected = by_vectors(vectors, target, beta=0.3)
        alpha = method.compute_weights(make_problem(vectors, step=step))
        np.testing.assert_allclose(alpha @ vectors, expected, rtol=0, atol=1e-10 * np.abs(expected).max())
    assert above  # targets were positive: more was asked for than PCGrad's right angles


def test_two_objectives_are_torchjds(make_problem: Make) -> None:
    rng = np.random.default_rng(0)
    method, theirs = Gradvac(GradvacOptions(momentum=0.9)), GradVacWeighting(beta=0.1, eps=0.0)
    for step in range(30):
        vectors = rng.standard_normal((2, 3)) + np.array([1.0, 0.5, 0.0])
        gram = torch.from_numpy(vectors @ vectors.T)
        alpha = method.compute_weights(make_problem(vectors, step=step))
        np.testing.assert_allclose(alpha, theirs(gram).numpy(), rtol=1e-9)


def test_the_first_step_is_pcgrads(make_problem: Make) -> None:
    rng = np.random.default_rng(1)
    for count in (1, 3, 5, 7):
        stats = make_problem(rng.standard_normal((count, 4)), rng.uniform(0.5, 2, count), step=4)
        alpha = Gradvac(GradvacOptions(momentum=0.9)).compute_weights(stats)
        np.testing.assert_allclose(alpha, pcgrad(stats), rtol=1e-9)


def test_by_hand(make_problem: Make) -> None:
    method = Gradvac(GradvacOptions(momentum=0.0))
    half = [[1.0, 0.0], [0.5, 0.75**0.5]]
    assert method.compute_weights(make_problem(half)).tolist() == [1.0, 1.0]
    # Both are turned to 60° from the other: e2 + e1/√3 has cosine 1/2 with e1.
    alpha = method.compute_weights(make_problem([[2.0, 0.0], [0.0, 3.0]]))
    np.testing.assert_allclose(alpha, [1 + 3 / 2 / 3**0.5, 1 + 2 / 3 / 3**0.5], rtol=1e-12)


def test_a_missing_objective_keeps_its_targets(make_problem: Make) -> None:
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((3, 4)) + 1
    method = Gradvac(GradvacOptions(momentum=0.5))
    method.compute_weights(make_problem(vectors))
    kept = method.state()["target"]["a"]["c"]
    moved = method.state()["target"]["a"]["b"]
    method.compute_weights(make_problem(vectors[:2]))
    assert method.state()["target"]["a"]["c"] == kept
    assert method.state()["target"]["a"]["b"] != moved
    before = method.state()["target"]["c"]["b"]
    method.compute_weights(make_problem(vectors[[2, 1]], names=["c", "b"]))  # by name, not by place
    cosine = vectors[2] @ vectors[1] / np.linalg.norm(vectors[2]) / np.linalg.norm(vectors[1])
    assert method.state()["target"]["c"]["b"] == pytest.approx(0.5 * before + 0.5 * cosine, rel=1e-12)


def test_a_target_of_one_asks_for_no_infinite_step(make_problem: Make) -> None:
    method = Gradvac(GradvacOptions(momentum=0.0))
    method.compute_weights(make_problem([[1.0, 1.0], [2.0, 2.0]]))
    alpha = method.compute_weights(make_problem([[1.0, 0.0], [0.0, 1.0]]))
    np.testing.assert_allclose(alpha, 1 + CLOSEST / (1 - CLOSEST**2) ** 0.5, rtol=1e-12)


def test_what_vanished_is_not_remembered(make_problem: Make) -> None:
    """Opposed gradients cancel up to rounding, and what is left has no angle to the third."""
    rng = np.random.default_rng(5)
    for _ in range(20):
        g = rng.standard_normal(30)
        h = rng.standard_normal(30) + g
        method = Gradvac(GradvacOptions(momentum=0.0))
        method.compute_weights(make_problem([g, -3 * g, h]))
        target = method.state()["target"]
        assert target["a"]["b"] == pytest.approx(-1.0)
        # Seen where h came before −3g alone.
        assert target["a"]["c"] == pytest.approx(g @ h / np.linalg.norm(g) / np.linalg.norm(h), rel=1e-12)
