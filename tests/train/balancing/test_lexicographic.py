"""Priorities against SLSQP, by hand, and as a promise."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from equipoise.train.balancing.gradient_stats import GradientStats
from equipoise.train.balancing.priorities import lexicographic, priorities
from equipoise.train.balancing.solvers import project

Make = Callable[..., GradientStats]


def by_slsqp(vectors: np.ndarray, preference: np.ndarray, ranks: list[int], tolerance: float) -> np.ndarray:
    """d in the vectors' own space, one quadratic program per priority."""
    d, rows, least = np.zeros(vectors.shape[1]), [], []
    for k in ranks:
        target = d + preference[k] * vectors[k]
        bounds = [{"type": "ineq", "fun": lambda x, g=g, b=b: g @ x - b} for g, b in zip(rows, least, strict=True)]
        answer = minimize(
            lambda x, t=target: 0.5 * ((x - t) ** 2).sum(),
            d,
            method="SLSQP",
            jac=lambda x, t=target: x - t,
            constraints=bounds,
            options={"ftol": 1e-14, "maxiter": 500},
        )
        d = answer.x
        progress = vectors[k] @ d
        rows.append(vectors[k])
        least.append(progress - tolerance * max(progress, 0))
    return d


@pytest.mark.parametrize("tolerance", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_it_is_the_nearest_point_at_every_priority(make_problem: Make, tolerance: float, count: int) -> None:
    rng = np.random.default_rng([count])
    bent = 0
    for _ in range(10):
        vectors, preference = rng.standard_normal((count, 5)), rng.uniform(0.5, 2, count)
        order = rng.permutation(count).tolist()
        stats = make_problem(vectors, preference)
        alpha = lexicographic(stats, [stats.names[k] for k in order], tolerance)
        np.testing.assert_allclose(alpha @ vectors, by_slsqp(vectors, preference, order, tolerance), atol=1e-5)
        bent += not np.allclose(alpha, preference)
    assert bent


def test_by_hand(make_problem: Make) -> None:
    vectors = np.array([[1.0, 0.0], [-2.0, 1.0], [0.0, -1.0]])
    stats = make_problem(vectors, [3, 2, 1])
    # The second keeps its part that is at right angles to the first, the third loses all to the second.
    d = [lexicographic(stats, tolerance=t) @ vectors for t in (0.0, 0.5, 1.0)]
    np.testing.assert_allclose(d[0], [3.0, 2.0], rtol=1e-12)
    # Half of the first one's 3 may go; the second has progress −1 there, which the third may not lower.
    np.testing.assert_allclose(d[1], [1.5, 2.0], rtol=1e-12)
    # The second may take all of the first, (0, 2), and the third 1 of the second's 2.
    np.testing.assert_allclose(d[2], [0.0, 1.0], atol=1e-12)
    opposed = make_problem([[1.0, 0.0], [-5.0, 0.0]], [1.0, 1.0])
    np.testing.assert_allclose(lexicographic(opposed, ["b"]) @ [1.0, -5.0], -5.0, rtol=1e-12)
    assert lexicographic(make_problem(np.eye(3), [3, 1, 2])).tolist() == [3.0, 1.0, 2.0]


def test_where_rounding_leaves_no_point_the_last_one_is_kept(
    make_problem: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def all_but_last(cosines: np.ndarray, target: np.ndarray, bounds: np.ndarray) -> np.ndarray | None:
        return None if np.isfinite(bounds).sum() == 2 else project(cosines, target, bounds)

    monkeypatch.setattr("equipoise.train.balancing.priorities.project", all_but_last)
    assert lexicographic(make_problem(np.eye(3)), ["c", "a"]).tolist() == [1.0, 0.0, 1.0]


def test_ranks(make_problem: Make) -> None:
    stats = make_problem(np.eye(4), [1, 3, 3, 2])
    assert priorities(stats, None) == [1, 2, 3, 0]
    assert priorities(stats, ["a", "gone"]) == [0, 1, 2, 3]
    assert priorities(stats, ["d", "a"]) == [3, 0, 1, 2]


@st.composite
def gradients(draw: st.DrawFn) -> np.ndarray:
    """Up to five vectors, often dependent, equal or opposed, of norms 1e-4 to 1e4."""
    count, size = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    entries = st.lists(st.integers(-4, 4), min_size=size, max_size=size).filter(any)
    vectors = np.array([draw(entries) for _ in range(count)], dtype=np.float64)
    return vectors * 10.0 ** np.array([draw(st.integers(-4, 4)) for _ in range(count)])[:, None]


@given(vectors=gradients(), tolerance=st.sampled_from([0.0, 0.3, 1.0]), seed=st.integers(0, 99))
def test_no_priority_loses_more_than_the_tolerance(
    make_problem: Make, vectors: np.ndarray, tolerance: float, seed: int
) -> None:
    """Each priority's progress in the end, against that of the descent that stops at it."""
    order = np.random.default_rng(seed).permutation(len(vectors)).tolist()
    stats = make_problem(vectors)
    alpha = lexicographic(stats, [stats.names[k] for k in order], tolerance)
    size = (alpha * stats.norms).sum()
    assert np.isfinite(alpha).all()
    for rank in range(len(order)):
        rows = order[: rank + 1]
        alone = make_problem(vectors[rows], names=[stats.names[k] for k in rows])
        stopped = lexicographic(alone, list(alone.names), tolerance) @ vectors[rows]
        progress = vectors[order[rank]] @ stopped
        least = progress - tolerance * max(progress, 0)
        assert vectors[order[rank]] @ (alpha @ vectors) >= least - 1e-8 * stats.norms[order[rank]] * size
    first = stats.norms[order[0]] ** 2
    assert vectors[order[0]] @ (alpha @ vectors) >= (1 - tolerance) * first - 1e-8 * stats.norms[order[0]] * size


def test_a_descent_ends_at_the_first_priority_and_only_then_minds_the_second(make_problem: Make) -> None:
    """First loss x², second (x − 1)² + (y − 2)²: its minimum among the minima of the first is (0, 2)."""
    x = np.array([3.0, -3.0])
    for step in range(4000):
        vectors = np.array([[2 * x[0], 0.0], [2 * (x[0] - 1), 2 * (x[1] - 2)]])
        rows = np.flatnonzero(np.linalg.norm(vectors, axis=1) > 1e-10)
        names = np.array(["a", "b"])[rows]
        x = x - 0.05 / (1 + step / 50) * lexicographic(make_problem(vectors[rows], names=names), ["a"]) @ vectors[rows]
    np.testing.assert_allclose(x, [0, 2], atol=0.01)


def test_preference_ranks_and_raises_the_share(make_problem: Make) -> None:
    rng = np.random.default_rng(6)
    for _ in range(10):
        vectors = rng.standard_normal((3, 4))
        progress = []
        for preferred in (0.5, 2.0, 8.0):  # last, second and first in rank
            d = lexicographic(make_problem(vectors, [1, preferred, 3])) @ vectors
            progress.append(vectors[1] @ d / np.linalg.norm(d))
        assert progress[0] <= progress[1] + 1e-9
        assert progress[1] <= progress[2] + 1e-9
