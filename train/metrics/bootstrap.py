"""Bootstrap intervals by resampling whole requests, whose rows are not independent (Efron & Tibshirani 1993).

Sorting is done once: a resample only changes how often each request counts, so that one costs a pass over the rows.
"""

from collections.abc import Iterator

import numpy as np

from train.metrics.pointwise import request_auc, weighted_gauc

RESAMPLES = 200
LEVEL = 0.95


def request_draws(requests: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each request is drawn, int64 (R,), for each resample; equal seeds give equal (paired) draws."""
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(generator.integers(0, requests, requests), minlength=requests)


def resampled_auc(
    label: np.ndarray, score: np.ndarray, request: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> np.ndarray:
    """AUC of every resample of the requests, float64 (resamples,), NaN where a resample has one class only."""
    numbers, segment = np.unique(request, return_inverse=True)
    order = np.argsort(score, kind="stable")
    segment, positive, sorted_score = segment[order], np.asarray(label)[order] == 1, score[order]
    starts = np.flatnonzero(np.r_[True, sorted_score[1:] != sorted_score[:-1]])
    found = np.full(resamples, np.nan)
    if not len(order):
        return found
    for number, times in enumerate(request_draws(len(numbers), resamples, seed)):
        rows = times[segment]
        positives = np.add.reduceat(rows * positive, starts)
        negatives = np.add.reduceat(rows, starts) - positives
        pairs = float(positives.sum()) * float(negatives.sum())
        if pairs:
            beaten = np.cumsum(negatives) - negatives / 2
            found[number] = (positives * beaten).sum() / pairs
    return found


def resampled_gauc(
    label: np.ndarray, score: np.ndarray, request: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> np.ndarray:
    """GAUC of every resample of the requests, float64 (resamples,)."""
    aucs, weights = request_auc(label, score, request)
    if not len(aucs):
        return np.full(resamples, np.nan)
    return np.array([weighted_gauc(aucs, weights * times) for times in request_draws(len(aucs), resamples, seed)])


def interval(samples: np.ndarray, level: float = LEVEL) -> list[float]:
    """The percentile interval [low, high] of the samples (B,); NaN where fewer than half of them are defined."""
    defined = samples[np.isfinite(samples)]
    if 2 * len(defined) <= len(samples):
        return [float("nan"), float("nan")]
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return [float(low), float(high)]
