"""Columns of similarity and co-purchase against their definitions, one candidate at a time."""

from pathlib import Path

import numpy as np
import pytest

from equipoise.common.errors import UserError
from equipoise.data.thing_columns import CoPurchase, principal_axes, similar


def by_hand(values: np.ndarray, history: np.ndarray, thing: int, best: int) -> list[float]:
    """Mean, mean of the best and maximum over the history without padding and the thing itself."""
    shown = [value for value, other in zip(values, history, strict=True) if other >= 0 and other != thing]
    if thing < 0 or not shown:
        return [np.nan] * 3
    return [np.mean(shown), np.mean(sorted(shown)[-best:]), max(shown)]


@pytest.mark.parametrize("length", [0, 1, 2, 9])
def test_similar_is_what_it_says(length: int) -> None:
    rng = np.random.default_rng(length)
    vectors = rng.normal(size=(12, 5)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    history, candidate = rng.permutation(12)[:length], np.array([0, 3, -1, 7, 11])
    columns = similar(history, candidate, vectors[history], vectors[candidate])
    assert columns.dtype == np.float32
    expected = [by_hand(vectors[history] @ vectors[thing], history, thing, 3) for thing in candidate]
    np.testing.assert_allclose(columns, expected, atol=1e-6)


def test_co_purchase_is_what_it_says(tmp_path: Path) -> None:
    counts = CoPurchase(np.array([1, 2, 7]), np.array([3, 1, 2], np.float32), np.array([4, 3, 2, 0, 1], np.float32))
    counts.write(tmp_path / "counts.npz")
    counts = CoPurchase.read(tmp_path / "counts.npz")
    both = {(0, 1): 3, (0, 2): 1, (1, 2): 2}
    alone = [4, 3, 2, 0, 1, 0, 0]  # 5 and 6 are texts that the table lacks
    history, candidate = np.array([2, 0, -1, 5, 3]), np.array([0, 1, 2, -1, 5, 6])
    lifts = [
        [both.get((min(i, j), max(i, j)), 0) / np.sqrt((alone[i] + 5) * (alone[j] + 5)) for i in history]
        for j in candidate
    ]
    expected = [by_hand(row, history, j, 5) for row, j in zip(np.array(lifts), candidate, strict=True)]
    np.testing.assert_allclose(counts.together(history, candidate), expected, atol=1e-6)
    none = CoPurchase(np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.float32))
    assert none.together(np.array([1]), np.array([2])).tolist() == [[0, 0, 0]]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"co_purchase\.npz is missing or unreadable"):
        CoPurchase.read(tmp_path / "co_purchase.npz")


def test_axes_are_those_of_the_svd() -> None:
    vectors = np.random.default_rng(0).normal(size=(40, 6)) * [5, 4, 3, 2, 1, 0.5] + 7
    axes = principal_axes(vectors.astype(np.float32), 4)
    usual = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)[2][:4]
    np.testing.assert_allclose(np.abs((axes * usual).sum(1)), 1, atol=1e-4)
    np.testing.assert_allclose(axes @ axes.T, np.eye(4), atol=1e-5)
    few = principal_axes(vectors[:2].astype(np.float32), 9)  # fewer vectors than axes
    np.testing.assert_allclose(few @ few.T, np.eye(6), atol=1e-5)
