"""Priority-Constrained Descent against TorchJD on sequences, SLSQP, and as a promise."""

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize
from torchjd.aggregation import PCDWeighting

from equipoise.configs.balancing import PcdOptions
from equipoise.train.balancing.gradient_stats import GradientStats
from equipoise.train.balancing.priorities import Pcd

Make = Callable[..., GradientStats]


@pytest.mark.parametrize(("count", "tau"), [(1, 0.5), (2, 0.02), (3, 0.3), (4, 0.6), (8, 0.2)])
def test_it_is_torchjds_on_the_same_sequence(make_problem: Make, count: int, tau: float) -> None:
    rng = np.random.default_rng(count)
    method, theirs = Pcd(PcdOptions(tau=tau, momentum=0.9)), PCDWeighting(tau=tau, beta=0.9, eps=0.0)
    bent = 0
    for step in range(40):
        vectors = rng.standard_normal((count, 10)) * 10.0 ** rng.uniform(-3, 3, (count, 1))
        expected = theirs(torch.from_numpy(vectors @ vectors.T)).numpy() @ vectors
        alpha = method.compute_weights(make_problem(vectors, step=step))
        np.testing.assert_allclose(alpha @ vectors, expected, rtol=0, atol=1e-7 * np.linalg.norm(expected))
        bent += bool((alpha[1:] > 0).any())
    assert bent > 10 or count == 1


def test_preference_raises_the_promise(make_problem: Make) -> None:
    rng = np.random.default_rng(1)
    preference = np.array([4.0, 1.0, 2.0, 0.5])
    method = Pcd(PcdOptions(tau=0.8, momentum=0.5))
    theirs = PCDWeighting(tau=torch.tensor([0.2, 0.4, 0.1], dtype=torch.float64), beta=0.5, eps=0.0)
    for step in range(20):
        vectors = rng.standard_normal((4, 6))
        expected = theirs(torch.from_numpy(vectors @ vectors.T)).numpy()
        alpha = method.compute_weights(make_problem(vectors, preference, step=step))
        np.testing.assert_allclose(alpha, expected, atol=1e-8)


def test_no_promise_is_more_than_a_whole_step(make_problem: Make) -> None:
    stats = make_problem(np.diag([1.0, 2.0, 3.0]), [1, 9, 1])
    alpha = Pcd(PcdOptions(primary="a", tau=0.5)).compute_weights(stats)
    np.testing.assert_allclose(alpha * stats.norms, np.array([1, 1, 0.5]) / 2.25**0.5, rtol=1e-12)


def test_it_is_the_nearest_point(make_problem: Make) -> None:
    rng = np.random.default_rng(2)
    for _ in range(10):
        vectors = rng.standard_normal((4, 6))
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)  # a first step: the average is the norm
        answer = minimize(
            lambda x, g=unit[0]: 0.5 * ((x - g) ** 2).sum(),
            unit[0],
            method="SLSQP",
            jac=lambda x, g=unit[0]: x - g,
            constraints=[{"type": "ineq", "fun": lambda x, g=g: g @ x - 0.4} for g in unit[1:]],
            options={"ftol": 1e-14, "maxiter": 500},
        )
        d = Pcd(PcdOptions(tau=0.4)).compute_weights(make_problem(vectors)) @ vectors
        expected = answer.x * np.linalg.norm(vectors[0]) / np.linalg.norm(answer.x)
        np.testing.assert_allclose(d, expected, atol=1e-5)


@st.composite
def courses(draw: st.DrawFn) -> list[np.ndarray]:
    count, size = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    entries = st.lists(st.integers(-4, 4), min_size=size, max_size=size).filter(any)
    steps = []
    for _ in range(2):
        vectors = np.array([draw(entries) for _ in range(count)], dtype=np.float64)
        steps.append(vectors * 10.0 ** np.array([draw(st.integers(-4, 4)) for _ in range(count)])[:, None])
    return steps


@given(steps=courses(), tau=st.sampled_from([0.0, 0.1, 0.7, 1.0]), momentum=st.sampled_from([0.0, 0.9]))
def test_promises_are_kept_or_all_dropped(
    make_problem: Make, steps: list[np.ndarray], tau: float, momentum: float
) -> None:
    method = Pcd(PcdOptions(primary="a", tau=tau, momentum=momentum))
    mean, mass = np.zeros(len(steps[0])), 0.0
    for vectors in steps:
        stats = make_problem(vectors)
        mean, mass = momentum * mean + (1 - momentum) * stats.norms**2, momentum * mass + 1 - momentum
        scaled = vectors / np.sqrt(mean / mass)[:, None]
        alpha = method.compute_weights(stats)
        assert np.isfinite(alpha).all()
        if (alpha == 0).all():  # d̃ = 0: only where nothing is promised
            assert tau == 0
            continue
        coefficients = alpha / alpha[0] * np.sqrt(mean / mean[0])  # of d̃ on the g̃: 1 on the primary's
        d, size = coefficients @ scaled, np.linalg.norm(scaled, axis=1)
        if len(vectors) == 1 or (alpha[1:] == 0).all():
            np.testing.assert_allclose(alpha @ vectors, vectors[0], rtol=1e-12)
            if (scaled[1:] @ scaled[0] < tau * size[1:] ** 2 - 1e-6 * size[1:]).any():  # dropped
                free = [(None, None)] * vectors.shape[1]
                unit = scaled[1:] / size[1:, None]
                assert linprog(np.zeros(len(free)), -unit, -tau * size[1:], bounds=free).status == 2  # infeasible
        else:
            short = tau * size[1:] ** 2 - scaled[1:] @ d
            assert (short <= 1e-8 * size[1:] * (coefficients @ size)).all()
            np.testing.assert_allclose(np.linalg.norm(alpha @ vectors), stats.norms[0], rtol=1e-3)


def test_impossible_promises_are_dropped(make_problem: Make) -> None:
    opposed = make_problem([[3.0, 1.0], [0.0, 1.0], [0.0, -1.0]])
    assert Pcd(PcdOptions(tau=0.1)).compute_weights(opposed).tolist() == [1.0, 0.0, 0.0]
    # With nothing promised, what is left of opposed gradients is nothing.
    assert Pcd(PcdOptions(tau=0.0)).compute_weights(make_problem([[1.0, 0.0], [-2.0, 0.0]])).tolist() == [0.0, 0.0]


def test_who_leads(make_problem: Make) -> None:
    vectors = np.array([[1.0, 0.0], [0.0, 2.0]])
    for options, preference, leader in [
        ({}, [1, 1], 0),
        ({}, [1, 3], 1),
        ({"primary": "a"}, [1, 3], 0),
        ({"primary": "b"}, [1, 1], 1),
    ]:
        alpha = Pcd(PcdOptions(tau=0.0, **options)).compute_weights(make_problem(vectors, preference))
        assert alpha[leader] == 1
        assert alpha[1 - leader] == 0


def test_without_the_primary_the_promises_alone_are_kept(make_problem: Make) -> None:
    method = Pcd(PcdOptions(tau=0.5, momentum=0.9))
    method.compute_weights(make_problem(np.diag([10.0, 2.0, 0.1]), [2, 1, 1]))
    others = make_problem(np.diag([2.0, 0.1]), [1, 1], names=["b", "c"])
    resumed = Pcd(PcdOptions(tau=0.5, momentum=0.9))
    resumed.restore(json.loads(json.dumps(method.state())))
    alpha = method.compute_weights(others)
    # τ = 0.5·1/2 of a unit step along each, and a unit is the primary's usual length, 10.
    np.testing.assert_allclose(alpha * others.norms, [2.5, 2.5], rtol=1e-12)
    assert resumed.compute_weights(others).tolist() == alpha.tolist()
    # It is not by its absence that another objective comes to lead.
    alpha = method.compute_weights(make_problem(np.diag([10.0, 2.0, 0.1]), [2, 1, 1]))
    np.testing.assert_allclose(alpha * [10.0, 2.0, 0.1], np.array([1, 0.25, 0.25]) * 10 / 1.125**0.5, rtol=1e-12)
    # A primary that was never seen: the promises are tau, in the mean length of the others.
    never_seen = Pcd(PcdOptions(primary="z", tau=0.5))
    preferred = replace(others, preference=np.array([3.0, 5.0]))
    np.testing.assert_allclose(never_seen.compute_weights(preferred) * others.norms, [0.525, 0.525], rtol=1e-12)


def test_a_larger_preference_gives_more_progress(make_problem: Make) -> None:
    rng = np.random.default_rng(4)
    for _ in range(10):
        vectors = rng.standard_normal((3, 6))
        progress = []
        for preferred in (0.5, 1.0, 3.0, 9.0):
            d = Pcd(PcdOptions(tau=0.3)).compute_weights(make_problem(vectors, [4, preferred, 1])) @ vectors
            progress.append(vectors[1] @ d / np.linalg.norm(d))
        assert (np.diff(progress) >= -1e-6).all()
        assert progress[-1] > progress[0]
