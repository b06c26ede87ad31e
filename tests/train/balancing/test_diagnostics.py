"""What a solve tells, against explicit vectors."""

import numpy as np
import pytest

from equipoise.train.averages import Averages
from equipoise.train.balancing.diagnostics import cosines_of, remember_cosines, remember_decision, remember_step
from equipoise.train.balancing.gradient_stats import condition

NAMES = ("a", "b", "c", "d")


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


@pytest.fixture
def vectors() -> np.ndarray:
    return np.random.default_rng(5).standard_normal((4, 6)) * np.array([[1.0], [1e-4], [30.0], [2.0]])


def test_cosines_are_those_of_the_vectors(vectors: np.ndarray) -> None:
    averages = Averages()
    remember_cosines(averages, NAMES, vectors @ vectors.T, "balance")
    seen = averages.drain()
    expected = {f"{NAMES[i]}-{NAMES[j]}": cosine(vectors[i], vectors[j]) for j in range(4) for i in range(j)}
    assert len(seen) == 2 * 6 + 1
    for pair, value in expected.items():
        assert seen[f"balance/cosine/{pair}"] == pytest.approx(value, abs=1e-12)
        assert seen[f"balance/conflict/{pair}"] == (value < 0)
    assert 0 < seen["balance/conflict_rate"] < 1
    assert seen["balance/conflict_rate"] == pytest.approx(np.mean([value < 0 for value in expected.values()]))


def test_conflicts_are_averaged_and_place_names_the_layer() -> None:
    averages = Averages()
    for y in (1.0, -1.0, -1.0, -1.0):
        pair = np.array([[1.0, 0.0], [y, 1.0]])
        remember_cosines(averages, ("a", "b"), pair @ pair.T, "balance/layer-3")
    seen = averages.drain()
    assert set(seen) == {f"balance/layer-3/{key}" for key in ("cosine/a-b", "conflict/a-b", "conflict_rate")}
    assert seen["balance/layer-3/conflict/a-b"] == seen["balance/layer-3/conflict_rate"] == 0.75
    assert seen["balance/layer-3/cosine/a-b"] == pytest.approx(-0.5 / np.sqrt(2))


def test_zero_and_non_finite_gradients_have_no_cosine(vectors: np.ndarray) -> None:
    vectors[1] = 0.0
    gram = vectors @ vectors.T
    gram[2] = gram[:, 2] = np.nan
    cosines = cosines_of(gram)
    assert np.isnan(cosines[[1, 2]]).all() and np.isnan(cosines[:, [1, 2]]).all()
    assert cosines[0, 3] == pytest.approx(cosine(vectors[0], vectors[3]), abs=1e-12)
    averages = Averages()
    remember_cosines(averages, NAMES, gram, "balance")
    assert set(averages.drain()) == {"balance/cosine/a-d", "balance/conflict/a-d", "balance/conflict_rate"}
    remember_cosines(averages, NAMES, np.full((4, 4), np.nan), "balance")
    assert averages.drain() == {}
    remember_cosines(averages, ("a",), np.ones((1, 1)), "balance")
    assert averages.drain() == {}
    remember_cosines(averages, ("a", "b"), np.eye(2), "balance")  # a right angle is no conflict
    assert averages.drain()["balance/conflict/a-b"] == 0.0


def test_rounding_makes_no_cosine_beyond_one() -> None:
    gram = np.array([[1.0, 1.0 + 1e-12], [1.0 + 1e-12, 1.0]])
    assert cosines_of(gram).max() == 1.0


def test_the_step_is_that_of_the_vectors(vectors: np.ndarray) -> None:
    weights = np.array([0.2, 50.0, 0.01, -0.7])
    step = weights @ vectors
    averages = Averages()
    remember_step(averages, NAMES, vectors @ vectors.T, weights)
    seen = averages.drain()
    assert seen["balance/length"] == pytest.approx(np.linalg.norm(step), rel=1e-12)
    for name, vector in zip(NAMES, vectors, strict=True):
        assert seen[f"balance/norm/{name}"] == pytest.approx(np.linalg.norm(vector), rel=1e-12)
        assert seen[f"balance/effect/{name}"] == pytest.approx(vector @ step, rel=1e-9)
        assert seen[f"balance/along/{name}"] == pytest.approx(cosine(vector, step), abs=1e-12)
        assert seen[f"balance/against/{name}"] == (vector @ step < 0)
    assert {seen[f"balance/against/{name}"] for name in NAMES} == {0.0, 1.0}


def test_rounding_is_not_against_anybody() -> None:
    gram = np.array([[1.0, -1e-12], [-1e-12, 1.0]])
    averages = Averages()
    remember_step(averages, ("a", "b"), gram, np.array([0.0, 1.0]))
    assert averages.drain()["balance/against/a"] == 0.0
    remember_step(averages, ("a", "b"), np.array([[1.0, -1e-6], [-1e-6, 1.0]]), np.array([0.0, 1.0]))
    assert averages.drain()["balance/against/a"] == 1.0


def test_the_step_of_the_others_where_one_is_not_finite(vectors: np.ndarray) -> None:
    gram = vectors @ vectors.T
    gram[2] = gram[:, 2] = np.nan
    weights = np.array([0.2, 50.0, 0.0, 0.7])
    step = 0.2 * vectors[0] + 50.0 * vectors[1] + 0.7 * vectors[3]
    averages = Averages()
    remember_step(averages, NAMES, gram, weights)
    seen = averages.drain()
    assert not [key for key in seen if key.endswith("/c")]
    assert seen["balance/length"] == pytest.approx(np.linalg.norm(step), rel=1e-12)
    assert seen["balance/effect/a"] == pytest.approx(vectors[0] @ step, rel=1e-9)


def test_one_whose_gradient_is_zero_is_neither_helped_nor_harmed(vectors: np.ndarray) -> None:
    vectors[0] = 0.0
    averages = Averages()
    remember_step(averages, NAMES, vectors @ vectors.T, np.array([0.0, 1.0, 1.0, 1.0]))
    seen = averages.drain()
    assert seen["balance/norm/a"] == seen["balance/effect/a"] == 0.0
    assert "balance/along/a" not in seen and "balance/against/a" not in seen
    remember_step(averages, NAMES, vectors @ vectors.T, np.zeros(4))  # no step at all
    seen = averages.drain()
    assert seen["balance/length"] == 0.0 and "balance/along/b" not in seen


def test_the_decision_tells_who_was_left_out_and_why(vectors: np.ndarray) -> None:
    vectors[1] = 0.0
    gram = vectors @ vectors.T
    gram[3] = gram[:, 3] = np.inf
    conditioned = condition(gram, "l2", np.ones(4))
    averages = Averages()
    remember_decision(averages, NAMES, conditioned, np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.5, 0.0, 0.25, 0.0]))
    seen = averages.drain()
    kinds = ("weight", "preference", "zero", "nonfinite")
    assert [[seen[f"balance/{kind}/{name}"] for name in NAMES] for kind in kinds] == [
        [0.5, 0.0, 0.25, 0.0],
        [1.0, 2.0, 3.0, 4.0],
        [0.0, 1.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 1.0],
    ]
    norms = np.linalg.norm(vectors, axis=1)
    assert seen["balance/scale/a"] == pytest.approx((norms[0] + norms[2]) / 2 / norms[0])
    assert "balance/scale/b" not in seen and "balance/scale/d" not in seen
