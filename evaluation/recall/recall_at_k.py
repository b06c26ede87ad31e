"""Recall@k: the share of what a shopper took that stands among the first k of the catalogue.

Shape suffixes: S shoppers, I items.
"""

from collections.abc import Sequence

import numpy as np

from equipoise.evaluation.metrics.bootstrap import interval


def first_items(scores_SI: np.ndarray, k: int, exclude: Sequence[np.ndarray] | None = None) -> np.ndarray:
    """The best k items of every shopper, int64 (S, k), best first, equal ones by number; −1 where none is left."""
    top = np.full((len(scores_SI), k), -1, dtype=np.int64)
    for row, scores in enumerate(scores_SI):
        scores = np.array(scores, dtype=np.float64)
        if exclude is not None:
            scores[exclude[row]] = -np.inf
        order = np.argsort(-scores, kind="stable")[:k]
        order = order[np.isfinite(scores[order])]
        top[row, : len(order)] = order
    return top


def recall_at(top_SK: np.ndarray, relevant: Sequence[np.ndarray], cutoff: int) -> np.ndarray:
    """The share of each shopper's relevant items among the first `cutoff`, float64 (S,); NaN where there is none."""
    found = np.full(len(top_SK), np.nan)
    for row, wanted in enumerate(relevant):
        if len(wanted):
            found[row] = np.isin(wanted, top_SK[row, :cutoff]).mean()
    return found


def mean_interval(values: np.ndarray, resamples: int = 500, seed: int = 0) -> list[float]:
    """Bootstrap interval of the mean over shoppers; NaN are left out."""
    values = values[np.isfinite(values)]
    if not len(values):
        return [float("nan"), float("nan")]
    rng = np.random.default_rng(seed)
    return interval(values[rng.integers(0, len(values), (resamples, len(values)))].mean(axis=1))
