"""PCGrad on the Gram matrix against the algorithm on real vectors."""

from itertools import permutations, product

import numpy as np
import pytest

from equipoise.train.balancing.conflict_projections import pcgrad as pcgrad_of_problem
from equipoise.train.balancing.gradient_stats import GradientStats


def pcgrad(cosines: np.ndarray, norms: np.ndarray, seed: int = 0) -> np.ndarray:
    ones = np.ones(len(norms))
    return pcgrad_of_problem(GradientStats(tuple("abcdefgh"[: len(norms)]), cosines, norms, ones, ones, seed))


def by_vectors(vectors: np.ndarray) -> np.ndarray:
    """Yu et al. 2020, algorithm 1, word for word, averaged over all orders of the other gradients."""
    total = np.zeros(vectors.shape[1])
    for i, gradient in enumerate(vectors):
        others = [j for j in range(len(vectors)) if j != i]
        orders = list(permutations(others))
        for order in orders:
            projected = gradient.copy()
            for j in order:
                if projected @ vectors[j] < 0:
                    projected = projected - (projected @ vectors[j]) / (vectors[j] @ vectors[j]) * vectors[j]
            total += projected / len(orders)
    return total


def split(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    norms = np.linalg.norm(vectors, axis=1)
    cosines = vectors @ vectors.T / np.outer(norms, norms)
    np.fill_diagonal(cosines, 1.0)
    return cosines, norms


@pytest.mark.parametrize(("count", "size"), list(product([1, 2, 3, 4, 5], [2, 3, 40])))
def test_it_is_the_algorithm_averaged_over_all_orders(count: int, size: int) -> None:
    rng = np.random.default_rng([count, size])
    changed = 0
    for _ in range(8):
        vectors = rng.standard_normal((count, size)) * 10.0 ** rng.uniform(-4, 4, (count, 1))
        alpha = pcgrad(*split(vectors))
        assert (alpha >= 1 - 1e-14).all()  # a projection adds others, and never takes from the gradient itself
        expected = by_vectors(vectors)
        scale = np.abs(alpha * np.linalg.norm(vectors, axis=1)).max()
        np.testing.assert_allclose(alpha @ vectors, expected, rtol=0, atol=1e-12 * scale)
        changed += not np.allclose(alpha, 1)
    assert changed or count == 1


def test_by_hand() -> None:
    cosines = np.array([[1.0, -0.5], [-0.5, 1.0]])
    # g1 gains ½·(2/3) of g2's unit vector per its own norm, and the other way round.
    np.testing.assert_allclose(pcgrad(cosines, np.array([2.0, 3.0])), [1 + 0.5 * 3 / 2, 1 + 0.5 * 2 / 3], rtol=1e-14)
    assert pcgrad(-cosines + 2 * np.eye(2), np.array([2.0, 3.0])).tolist() == [1.0, 1.0]
    # Opposed gradients: each loses everything.
    vectors = np.array([[1.0, 0.0], [-4.0, 0.0]])
    np.testing.assert_allclose(pcgrad(*split(vectors)) @ vectors, 0, atol=1e-15)


def test_more_than_five_draw_their_orders_from_the_seed() -> None:
    cosines, norms = split(np.random.default_rng(3).standard_normal((6, 3)))
    one = pcgrad(cosines, norms, seed=7)
    assert np.array_equal(one, pcgrad(cosines, norms, seed=7))
    assert not np.allclose(one, pcgrad(cosines, norms, seed=8))
    # The drawn orders are fair: their mean over many steps is the mean over all 120 orders.
    vectors = np.random.default_rng(3).standard_normal((6, 3))
    mean = np.mean([pcgrad(cosines, norms, seed=step) for step in range(150)], axis=0)
    np.testing.assert_allclose(mean @ vectors, by_vectors(vectors), rtol=0.02, atol=0.02)
