"""The front against brute force, its hypervolume against areas counted by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from equipoise.evaluation.front.pareto import MARGIN, Front, front_mask, hypervolume

POINTS = arrays(
    np.float64,
    array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12).filter(lambda shape: shape[1] <= 4),
    elements=st.integers(0, 6).map(float),  # few values, so that ties and duplicates are common
)


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a >= b).all() and (a > b).any())


def brute_force(values: np.ndarray) -> list[bool]:
    found = []
    for number, point in enumerate(values):
        beaten = any(dominates(other, point) for other in values)
        found.append(not beaten and not any((other == point).all() for other in values[:number]))
    return found


@given(POINTS)
def test_front_is_that_of_brute_force(values):
    assert front_mask(values).tolist() == brute_force(values)


@given(POINTS)
def test_no_front_point_is_dominated_and_every_other_is_covered_by_one(values):
    mask = front_mask(values)
    front = values[mask]
    assert mask.any()
    assert not any(dominates(a, b) for a in front for b in front)
    for point in values[~mask]:
        assert any((other >= point).all() for other in front)


def area_by_hand(values: np.ndarray) -> float:
    """The area of a union of boxes [0, x] × [0, y] with whole corners, counted cell by cell."""
    cells = {(i, j) for x, y in values.astype(int) for i in range(x) for j in range(y)}
    return float(len(cells))


@given(arrays(np.float64, st.tuples(st.integers(1, 8), st.just(2)), elements=st.integers(0, 6).map(float)))
def test_hypervolume_in_two_dimensions_is_the_area_counted_by_hand(values):
    assert hypervolume(values, np.zeros(2)) == pytest.approx(area_by_hand(values))


def test_hypervolume_by_hand():
    assert hypervolume(np.array([[3.0, 1.0], [2.0, 2.0], [1.0, 3.0], [1.0, 1.0]]), np.zeros(2)) == 6.0
    assert hypervolume(np.array([[3.0, 1.0]]), np.array([1.0, 0.0])) == 2.0
    assert hypervolume(np.array([[1.0, 2.0, 3.0]]), np.zeros(3)) == 6.0
    assert hypervolume(np.array([[-1.0, 5.0]]), np.zeros(2)) == 0.0  # below the reference on one axis


@given(POINTS, st.integers(0, 2**32 - 1))
def test_hypervolume_grows_with_added_points(values, seed):
    reference = np.zeros(values.shape[1])
    added = np.random.default_rng(seed).random((1, values.shape[1])) * 7
    before, after = hypervolume(values, reference), hypervolume(np.vstack([values, added]), reference)
    assert after >= before - 1e-9
    if not any((other >= added[0]).all() for other in values):
        assert after > before  # it covers something that no other point did


def test_scale_extremes_and_volumes_of_a_front():
    values = np.array([[1.0, 0.0], [0.75, 0.5], [0.5, 1.0], [0.5, 0.25]])
    front = Front(values, ("ndcg", "ild"))
    assert front.points.tolist() == [0, 1, 2]
    assert front.ideal.tolist() == [1.0, 1.0] and front.nadir.tolist() == [0.5, 0.0]
    assert front.normalised.tolist() == [[1, 0], [0.5, 0.5], [0, 1], [0, 0.25]]
    assert front.extremes == {"ndcg": 0, "ild": 2}
    covered = front.covered()
    low = MARGIN
    by_hand = (1 + low) * low + (0.5 + low) * 0.5 + low * 0.5  # strips of the staircase from the bottom up
    assert covered["normalised"] == pytest.approx(by_hand / (1 + low) ** 2)
    assert covered["normalised_relevance_alone"] == pytest.approx((1 + low) * low / (1 + low) ** 2)
    assert covered["reference"] == pytest.approx([0.45, -0.1])
    assert covered["from_zero"] == pytest.approx(0.75 * 0.5 + 0.5 * 0.5)
    assert covered["from_zero_relevance_alone"] == 0.0


def test_an_axis_without_a_range_changes_nothing():
    front = Front(np.array([[1.0, 0.3], [0.5, 0.3]]), ("ndcg", "ild"))
    assert front.points.tolist() == [0]
    assert front.normalised.tolist() == [[0, 0], [0, 0]]
    assert front.extremes == {"ndcg": 0, "ild": 0}
