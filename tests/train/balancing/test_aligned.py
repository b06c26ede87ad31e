"""Aligned-MTL against 50-digit arithmetic, against TorchJD, and by hand."""

from collections.abc import Callable

import mpmath
import numpy as np
import pytest
import torch
from torchjd.aggregation import AlignedMTLWeighting

from equipoise.train.balancing.common_directions import aligned
from equipoise.train.balancing.gradient_stats import GradientStats


def in_fifty_digits(stats: GradientStats, rank: int) -> np.ndarray:
    with mpmath.workdps(50):
        count = len(stats.norms)
        gram = mpmath.matrix(count, count)
        for i in range(count):
            for j in range(count):
                gram[i, j] = mpmath.mpf(stats.cosines[i, j]) * stats.norms[i] * stats.norms[j]
        values, vectors = mpmath.eigsy(gram)
        kept = sorted(range(count), key=lambda j: values[j])[-rank:]
        alpha = [mpmath.mpf(0)] * count
        for j in kept:
            along = sum(vectors[k, j] * mpmath.mpf(stats.preference[k]) for k in range(count))
            for k in range(count):
                alpha[k] += vectors[k, j] * along * mpmath.sqrt(values[kept[0]] / values[j])
        return np.array([float(a) for a in alpha])


@pytest.mark.parametrize("spread", [0, 2, 4, 8])
def test_it_is_exact_for_norms_many_powers_of_ten_apart(
    make_problem: Callable[..., GradientStats], spread: int
) -> None:
    rng = np.random.default_rng(spread)
    for _ in range(8):
        count = int(rng.integers(2, 7))
        g = rng.standard_normal((count, count + 3)) * 10.0 ** rng.uniform(-spread, spread, (count, 1))
        stats = make_problem(g, rng.uniform(0.3, 3, count))
        expected = in_fifty_digits(stats, count) * stats.norms
        assert np.abs(aligned(stats) * stats.norms - expected).max() <= 1e-9 * np.abs(expected).max()


def test_dependent_gradients_with_norms_ten_thousand_apart(make_problem: Callable[..., GradientStats]) -> None:
    rng = np.random.default_rng(15)
    for _ in range(8):
        g = rng.standard_normal((5, 3)) * 10.0 ** rng.uniform(-2, 2, (5, 1))
        stats = make_problem(g, rng.uniform(0.3, 3, 5))
        expected = in_fifty_digits(stats, 3) * stats.norms
        assert np.abs(aligned(stats) * stats.norms - expected).max() <= 1e-7 * np.abs(expected).max()


def test_it_agrees_with_torchjd(make_problem: Callable[..., GradientStats]) -> None:
    rng = np.random.default_rng(16)
    for _ in range(20):
        count = int(rng.integers(2, 9))
        g, p = rng.standard_normal((count, 2 * count)), rng.uniform(0.3, 3, count)
        theirs = AlignedMTLWeighting(pref_vector=torch.from_numpy(p))(torch.from_numpy(g @ g.T)).numpy()
        np.testing.assert_allclose(aligned(make_problem(g, p)), theirs, atol=1e-10)


def test_by_hand(make_problem: Callable[..., GradientStats]) -> None:
    # Orthogonal: every gradient gets the length of the shortest.
    np.testing.assert_allclose(aligned(make_problem([[2.0, 0.0], [0.0, 8.0]], [1.0, 4.0])), [1.0, 1.0], rtol=1e-14)
    # Equal: one component, of squared length 2; each gets the mean of the preferences.
    np.testing.assert_allclose(aligned(make_problem([[2.0, 0.0], [2.0, 0.0]], [1.0, 3.0])), [2.0, 2.0], rtol=1e-14)
    # Aligned gradients are orthogonal and of one length: BGB = λ_min·1.
    g = np.array([[1.0, 0.0], [0.6, 0.8]])
    b = np.stack([aligned(make_problem(g, p)) for p in ([1.0, 1e-300], [1e-300, 1.0])])
    np.testing.assert_allclose(b @ g @ g.T @ b.T, 0.4 * np.eye(2), atol=1e-14)
