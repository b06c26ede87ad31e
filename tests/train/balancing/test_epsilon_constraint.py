"""ε-constraints against SLSQP, as a promise, and as a descent that ends at its bound."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from equipoise.configs.balancing import EpsilonConstraintOptions
from equipoise.train.balancing.common_directions import mgda
from equipoise.train.balancing.gradient_stats import GradientStats
from equipoise.train.balancing.priorities import EpsilonConstraint

Make = Callable[..., GradientStats]


def build(bounds: dict[str, float], rate: float = 1.0, momentum: float = 0.0) -> EpsilonConstraint:
    return EpsilonConstraint(EpsilonConstraintOptions(bounds=bounds, rate=rate, momentum=momentum))


def test_it_is_the_nearest_point(make_problem: Make) -> None:
    rng = np.random.default_rng(0)
    touched = 0
    for _ in range(15):
        vectors, preference, losses = rng.standard_normal((4, 6)), rng.uniform(0.5, 2, 4), rng.uniform(0, 2, 4)
        bounds = {"b": 0.8, "d": 1.5}
        target = preference[0] * vectors[0] + preference[2] * vectors[2]
        least = [0.7 * vectors[k] @ vectors[k] * np.clip((losses[k] - e) / e, -1, 1) for k, e in ((1, 0.8), (3, 1.5))]
        answer = minimize(
            lambda x, t=target: 0.5 * ((x - t) ** 2).sum(),
            target,
            method="SLSQP",
            jac=lambda x, t=target: x - t,
            constraints=[
                {"type": "ineq", "fun": lambda x, g=vectors[k], b=b: g @ x - b}
                for k, b in zip((1, 3), least, strict=True)
            ],
            options={"ftol": 1e-14, "maxiter": 500},
        )
        alpha = build(bounds, rate=0.7).compute_weights(make_problem(vectors, preference, losses=losses))
        np.testing.assert_allclose(alpha @ vectors, answer.x, atol=1e-5)
        touched += bool(alpha[1] or alpha[3])
    assert touched > 5


@st.composite
def steps(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    count, size = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    entries = st.lists(st.integers(-4, 4), min_size=size, max_size=size).filter(any)
    vectors = np.array([draw(entries) for _ in range(count)], dtype=np.float64)
    scales = 10.0 ** np.array([draw(st.integers(-3, 3)) for _ in range(count)])
    return vectors * scales[:, None], np.array([draw(st.sampled_from([0.0, 0.4, 1.0, 1.1, 5.0])) for _ in range(count)])


@given(step=steps(), rate=st.sampled_from([0.1, 1.0, 3.0]), epsilon=st.sampled_from([-0.5, 0.0, 1.0]))
def test_bounds_are_kept_or_the_broken_are_mended_first(
    make_problem: Make, step: tuple[np.ndarray, np.ndarray], rate: float, epsilon: float
) -> None:
    vectors, losses = step
    stats = make_problem(vectors, losses=losses)
    bounded = [k for k in range(len(losses)) if k % 2 == 0]
    alpha = build({stats.names[k]: epsilon for k in bounded}, rate=rate).compute_weights(stats)
    d, size = alpha @ vectors, float((alpha * stats.norms).sum())
    off = np.clip((losses - epsilon) / max(abs(epsilon), 1e-12), -1, 1)
    least = rate * stats.norms**2 * off
    biggest = max([size, *(abs(least[k]) / stats.norms[k] for k in bounded)])
    kept = all(vectors[k] @ d >= least[k] - 1e-8 * stats.norms[k] * biggest for k in bounded)
    broken = [k for k in bounded if losses[k] > epsilon]
    assert kept or broken
    if not kept:
        assert all(alpha[k] == 0 for k in range(len(losses)) if k not in broken)
        assert min(vectors[k] @ d for k in broken) >= -1e-8 * stats.norms.max() * size
    elif not bounded[1:] and not broken:
        assert (alpha[1::2] == 1).all()  # the free ones keep their preference


def test_repair_comes_first(make_problem: Make) -> None:
    vectors = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [0.5, 1.0]])
    stats = make_problem(vectors, [1, 1, 1, 2], losses=[9.0, 3.0, 3.0, 3.0])
    alpha = build({"b": 1.0, "c": 1.0, "d": 5.0}).compute_weights(stats)  # b and c are opposed, and both are broken
    part = mgda(make_problem(vectors[1:3]))
    assert alpha.tolist() == [0.0, *part.tolist(), 0.0]


def test_moving_average_bounds_and_units(make_problem: Make) -> None:
    method = build({"a": 1.0}, momentum=0.5)
    opposed = make_problem([[2.0, 0.0], [-1.0, 0.0]], losses=[1.5, 1.0])
    # ⟨g_a, d⟩ ≥ ‖g_a‖²·0.5: d = (1, 0), while −1 was aimed at.
    np.testing.assert_allclose(method.compute_weights(opposed) @ [2.0, -1.0], 1.0, rtol=1e-12)
    # Mean of 1.5 and 0 with weights 1/3 and 2/3: L̄ = 0.5, so the loss may rise: ⟨g_a, d⟩ ≥ −0.5·4.
    method.compute_weights(replace(opposed, losses=np.array([0.0, 1.0])))
    assert method.state()["losses"]["a"][0] / method.state()["losses"]["a"][1] == pytest.approx(0.5)
    assert method.compute_weights(replace(opposed, losses=np.array([0.5, 1.0]))).tolist() == [0.0, 1.0]
    # Bounds are in the logged units: this loss is 0.5 above its lower bound of −1.
    low = replace(opposed, losses=np.array([0.5, 1.0]), lower_bounds=np.array([-1.0, 0.0]))
    over = build({"a": -1.0}).compute_weights(low)  # L̄ = −0.5 is 0.5 above ε = −1
    np.testing.assert_allclose(over @ [2.0, -1.0], 1.0, rtol=1e-12)
    assert build({"a": -0.5}).compute_weights(low).tolist() == [0.5, 1.0]  # at its bound: it may not rise


def test_a_missing_objective_keeps_its_mean(make_problem: Make) -> None:
    method = build({"a": 1.0}, momentum=0.5)
    method.compute_weights(make_problem(np.eye(2), losses=[3.0, 1.0]))
    kept = method.state()
    assert method.compute_weights(make_problem([[1.0, 0.0]], [2.5], names=["b"])).tolist() == [2.5]
    assert method.state() == kept


def test_nothing_free_and_nothing_broken_is_no_step(make_problem: Make) -> None:
    assert build({"a": 1.0, "b": 1.0}).compute_weights(make_problem(np.eye(2), losses=[0.5, 0.5])).tolist() == [
        0.0,
        0.0,
    ]


def test_a_descent_ends_on_its_bound_and_moves_with_the_preference(make_problem: Make) -> None:
    """Free: distances to (1, 0) and (−1, 0). Bounded: the height above −1, whose square may be 0.25 at most."""
    ends = []
    for preference in [(4.0, 1.0), (1.0, 1.0), (1.0, 4.0)]:
        x, method = np.array([0.0, 3.0]), build({"c": 0.25}, momentum=0.0)
        centres = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, -1.0]])
        for _ in range(2000):
            gradients = np.array([x - centres[0], x - centres[1], [0.0, 2 * (x[1] + 1)]])
            losses = np.array([0.5 * gradients[0] @ gradients[0], 0.5 * gradients[1] @ gradients[1], (x[1] + 1) ** 2])
            stats = make_problem(gradients, [*preference, 1.0], losses=losses)
            x = x - 0.02 * method.compute_weights(stats) @ gradients
        np.testing.assert_allclose((x[1] + 1) ** 2, 0.25, rtol=1e-3)
        np.testing.assert_allclose(x[0], np.dot(preference, [1, -1]) / sum(preference), atol=1e-3)
        ends.append(x[0])
    assert ends[0] > ends[1] > ends[2]
