"""Bootstrap intervals by resampling whole requests, whose rows are not independent (Efron & Tibshirani 1993).

Sorting is done once: a resample only changes how often each request counts.
"""

from collections.abc import Iterator

import numpy as np
from scipy import sparse

from equipoise.evaluation.metrics.pointwise import CLIP, request_auc, weighted_gauc

RESAMPLES = 200
LEVEL = 0.95


def request_draws(requests: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each request is drawn, int64 (R,), for each resample; equal seeds give equal (paired) draws."""
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(generator.integers(0, requests, requests), minlength=requests)


def resampled_auc(
    label: np.ndarray,
    score: np.ndarray,
    request: np.ndarray,
    resamples: int = RESAMPLES,
    seed: int = 0,
    weight: np.ndarray | None = None,
) -> np.ndarray:
    """AUC of every resample of the requests, float64 (resamples,), NaN where a resample has one class only."""
    numbers, segment = np.unique(request, return_inverse=True)
    counts = [*request_draws(len(numbers), resamples, seed)] if len(numbers) else []
    if not counts:
        return np.full(resamples, np.nan)
    return auc_by_counts(np.asarray(label), score, segment, np.stack(counts), weight)


def auc_by_counts(
    label: np.ndarray, score: np.ndarray, segment: np.ndarray, counts: np.ndarray, weight: np.ndarray | None = None
) -> np.ndarray:
    """AUC with requests that count several times or never, float64 (B,), NaN where one class is missing.

    Negatives are summed by request and by the score interval between positives in one sparse product for all resamples.

    Args:
        label: 0 or 1, (N,).
        score: (N,).
        segment: number of the request from 0, int (N,).
        counts: how often each of the R requests is drawn, (B, R).
        weight: how much each row counts, (N,); None counts all alike.
    """
    positive, mass = label == 1, np.ones(len(label)) if weight is None else np.asarray(weight, np.float64)
    counts_RB = np.ascontiguousarray(counts.T, dtype=np.float64)
    negative_score, negative_segment, negative_mass = _by_score(score, segment, mass, ~positive)
    positive_score, positive_segment, positive_mass = _by_score(score, segment, mass, positive)
    below, upto = (np.searchsorted(negative_score, positive_score, side) for side in ("left", "right"))
    ends = np.unique(np.concatenate([[0], below, upto]))
    starts = np.append(ends, len(negative_score))  # row i: the negatives between two neighbouring ends
    shape = (len(ends), len(counts_RB))
    between = sparse.csr_array((negative_mass, negative_segment, starts), shape=shape)
    beaten_EB = np.zeros((len(ends) + 1, counts_RB.shape[1]))  # negatives before each end, and all of them
    np.cumsum(between @ counts_RB, axis=0, out=beaten_EB[1:])
    beaten_PB = beaten_EB[np.searchsorted(ends, below)]
    if (below != upto).any():
        beaten_PB = (beaten_PB + beaten_EB[np.searchsorted(ends, upto)]) / 2
    times_PB = counts_RB[positive_segment]
    if weight is not None:
        times_PB = times_PB * positive_mass[:, None]
    pairs_B = times_PB.sum(axis=0) * beaten_EB[-1]
    wins_B = np.einsum("pb,pb->b", times_PB, beaten_PB)
    return np.divide(wins_B, pairs_B, out=np.full(len(pairs_B), np.nan), where=pairs_B > 0)


def _by_score(
    score: np.ndarray, segment: np.ndarray, mass: np.ndarray, chosen: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    order = np.flatnonzero(chosen)[np.argsort(score[chosen])]
    return score[order], segment[order], mass[order]


def resampled_gauc(
    label: np.ndarray,
    score: np.ndarray,
    request: np.ndarray,
    resamples: int = RESAMPLES,
    seed: int = 0,
    weight: np.ndarray | None = None,
) -> np.ndarray:
    """GAUC of every resample of the requests, float64 (resamples,)."""
    aucs, weights = request_auc(label, score, request, weight)
    if not len(aucs):
        return np.full(resamples, np.nan)
    return np.array([weighted_gauc(aucs, weights * times) for times in request_draws(len(aucs), resamples, seed)])


def resampled_ne(
    label: np.ndarray,
    probability: np.ndarray,
    request: np.ndarray,
    resamples: int = RESAMPLES,
    seed: int = 0,
    weight: np.ndarray | None = None,
) -> np.ndarray:
    """NE of every resample of the requests, float64 (resamples,), NaN where a resample has one class only."""
    segment = np.unique(request, return_inverse=True)[1]
    if not len(segment) or not resamples:
        return np.full(resamples, np.nan)
    clipped = np.clip(np.asarray(probability, np.float64), CLIP, 1 - CLIP)
    losses = -np.where(label == 1, np.log(clipped), np.log1p(-clipped))
    mass = np.ones(len(label)) if weight is None else weight
    sums_3R = np.stack([np.bincount(segment, values) for values in (losses * mass, label * mass, mass)])
    loss, positives, rows = np.stack([sums_3R @ n for n in request_draws(sums_3R.shape[1], resamples, seed)], axis=1)
    rate = positives / rows
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
        return np.where((rate > 0) & (rate < 1), loss / rows / entropy, np.nan)


def resampled_mean(
    values: np.ndarray, resamples: int = RESAMPLES, seed: int = 0, weight: np.ndarray | None = None
) -> np.ndarray:
    """The mean of one number per request (R,), those that are NaN left out, of every resample: float64 (resamples,).

    `weight`: how much each request counts, (R,); None counts all alike.
    """
    if not len(values):
        return np.full(resamples, np.nan)
    mass = np.ones(len(values)) if weight is None else weight
    return np.array([weighted_gauc(values, mass * times) for times in request_draws(len(values), resamples, seed)])


def interval(samples: np.ndarray, level: float = LEVEL) -> list[float]:
    """The percentile interval [low, high] of the samples (B,); NaN where fewer than half of them are defined."""
    defined = samples[np.isfinite(samples)]
    if 2 * len(defined) <= len(samples):
        return [float("nan"), float("nan")]
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return [float(low), float(high)]
