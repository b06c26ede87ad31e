"""The nearest point that keeps bounds, against its optimality conditions (it is convex: they prove it) and by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import nnls

from equipoise.train.balancing.solvers import factor, project, semidefinite


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def cosines_of(vectors: np.ndarray) -> np.ndarray:
    unit = unit_rows(np.asarray(vectors, dtype=np.float64))
    cosines = np.clip(unit @ unit.T, -1, 1)
    np.fill_diagonal(cosines, 1.0)
    return cosines


@st.composite
def directions(draw: st.DrawFn) -> np.ndarray:
    """2–8 directions in 1–10 dimensions, often equal, opposed, dependent or all but."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.integers(2, 8))
    vectors = rng.standard_normal((count, draw(st.integers(1, 10))))
    kind = draw(st.sampled_from(["free", "equal", "opposed", "balanced", "all but opposed", "narrow"]))
    if kind in ("equal", "opposed"):
        vectors[1] = vectors[0] * (1 if kind == "equal" else -1)
    elif kind == "balanced":
        vectors[-1] = -vectors[:-1].sum(0)
    elif kind == "all but opposed":
        vectors[1] = -vectors[0] + 10.0 ** rng.uniform(-6, -1) * vectors[1]
    elif kind == "narrow":
        vectors = vectors[:1] + 10.0 ** rng.uniform(-6, -1) * vectors
    return vectors


def residual(cosines: np.ndarray, target: np.ndarray, bounds: np.ndarray, v: np.ndarray) -> float:
    """Broken bounds and multipliers on loose bounds, relative to the longest term."""
    assert (v >= 0).all()
    slack = cosines @ (target + v) - bounds
    size = max(np.abs(target).max(), v.max(), np.abs(bounds[np.isfinite(bounds)]).max(initial=0.0))
    return float(max(-slack.min(), np.where(v > 0, np.abs(slack), 0.0).max()) / size)


@given(directions(), st.integers(0, 2**32))
def test_dual_cone(vectors: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    target = rng.standard_normal(len(vectors)) * 10.0 ** rng.uniform(-8, 8, len(vectors))
    v = project(cosines_of(vectors), target, np.zeros(len(vectors)))
    assert v is not None
    assert residual(cosines_of(vectors), target, np.zeros(len(vectors)), v) <= 1e-10


@given(directions(), st.integers(0, 2**32))
def test_bounds_that_a_point_keeps_are_kept(vectors: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, size = vectors.shape
    bounds = unit_rows(vectors) @ rng.standard_normal(size) - rng.choice([0.0, 1.0, np.inf], count)
    target = rng.standard_normal(count)
    v = project(cosines_of(vectors), target, bounds)
    assert v is not None
    assert residual(cosines_of(vectors), target, bounds, v) <= 1e-10
    assert (v[np.isinf(bounds)] == 0).all()


def test_it_agrees_with_least_distance_programming() -> None:
    rng = np.random.default_rng(1)
    infeasible = 0
    for _ in range(300):
        vectors = rng.standard_normal((int(rng.integers(2, 9)), int(rng.integers(2, 9))))
        cosines, count = cosines_of(vectors), len(vectors)
        target, bounds = rng.standard_normal(count), rng.standard_normal(count)
        # Lawson & Hanson: min ‖x‖ with ⟨e_k, x⟩ ≥ short_k is −r/r_last, r the rest of [E; shortᵀ] y ≈ (0, 1).
        rows = np.vstack([unit_rows(vectors).T, bounds - cosines @ target])
        y, rest = nnls(rows, np.eye(len(rows))[-1], maxiter=1000)
        v = project(cosines, target, bounds)
        assert (v is None) == (rest < 1e-6)
        infeasible += v is None
        if v is not None:
            expected = unit_rows(vectors).T @ y / rest**2
            np.testing.assert_allclose(unit_rows(vectors).T @ v, expected, atol=1e-7 * max(1, np.abs(expected).max()))
    assert 30 < infeasible < 270


@pytest.mark.parametrize(
    ("vectors", "target", "bounds", "expected"),
    [
        ([[1, 0], [0, 1]], [1, 2], [0, 0], [0, 0]),
        ([[1, 0], [0, 1]], [-1, 2], [0, 0], [1, 0]),
        ([[1, 0], [-1, 0]], [3, 1], [0, 0], [0, 2]),  # only 0 keeps both
        ([[1, 0], [0, 1]], [0, 0], [3, -np.inf], [3, 0]),
        ([[1, 0], [-1, 0]], [0, 0], [1, 1], None),
        ([[1, 0], [1, 0]], [0, 0], [1, 2], [0, 2]),
        ([[0, 1], [3**0.5, -1], [-(3**0.5), -1]], [0, 0, 0], [1e-3, 0, 0], None),  # 0 is inside their hull
        ([[5, 0]], [-2], [1], [3]),
    ],
)
def test_by_hand(vectors: list, target: list, bounds: list, expected: list | None) -> None:
    v = project(cosines_of(np.array(vectors)), np.array(target, dtype=float), np.array(bounds, dtype=float))
    if expected is None:
        assert v is None
    else:
        assert v is not None
        np.testing.assert_allclose(v, expected, atol=1e-15)


def test_equal_gradients_share_a_bound_in_every_order() -> None:
    vectors = np.array([[1.0, 0.2], [1.0, 0.2], [-1.0, 0.3], [-1.0, 0.3]])
    points = []
    for order in itertools.permutations(range(4)):
        v = project(cosines_of(vectors[list(order)]), np.array([1.0, 2, 3, 4])[list(order)], np.zeros(4))
        assert v is not None
        points.append((np.array([1.0, 2, 3, 4])[list(order)] + v) @ unit_rows(vectors)[list(order)])
    np.testing.assert_allclose(points, np.tile(points[0], (24, 1)), atol=1e-13)


def test_noise_is_cut_off_and_a_true_matrix_left_alone() -> None:
    clean = cosines_of(np.random.default_rng(2).standard_normal((6, 3)))
    assert semidefinite(clean) is clean
    noise = np.random.default_rng(3).uniform(-1e-6, 1e-6, (6, 6))
    cut = semidefinite(clean + noise + noise.T)
    assert np.linalg.eigvalsh(clean + noise + noise.T)[0] < -1e-7
    assert np.linalg.eigvalsh(cut)[0] > -1e-14
    np.testing.assert_allclose(cut, clean, atol=1e-5)
    np.testing.assert_allclose(factor(clean).T @ factor(clean), clean, atol=1e-14)
