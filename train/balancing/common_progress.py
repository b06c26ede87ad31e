"""Shared by CAGrad and PE-LTR: how far a common progress of all objectives can be raised.

d(λ) is the point nearest to t with ⟨e_k, d⟩ ≥ λ·rates_k for all k. While the same bounds are active, its multipliers
are linear in λ, so that the λ at which some growing measure of them reaches its limit has a closed form.
"""

from collections.abc import Callable

import numpy as np

from equipoise.train.balancing.projection import DEPENDENT, factor, nonnegative_least_squares, project

Piece = Callable[[np.ndarray, np.ndarray], float]
"""(v, slope) → the change of λ after which v + change·slope is at the limit; −inf: v is past it, the line never."""


def stationary(cosines: np.ndarray) -> bool:
    """Whether 0 is in the hull of the gradients: then no direction helps all, and no λ > 0 can be reached."""
    count = len(cosines)
    rows = np.vstack([factor(cosines), np.ones(count)])
    u = nonnegative_least_squares(rows, np.eye(len(rows))[-1])
    return float(u @ cosines @ u) <= 100 * DEPENDENT * float(u.sum()) ** 2


def raise_progress(
    cosines: np.ndarray, target: np.ndarray, rates: np.ndarray, piece: Piece, highest: float = np.inf
) -> np.ndarray:
    """The multipliers v ≥ 0 of d(λ) = Σ (target + v)_k e_k at the limit that `piece` knows, or at the highest λ.

    Args:
        cosines: (A, A), positive semi-definite.
        target: (A,) coefficients on the unit gradients.
        rates: (A,) > 0.
        piece: see `Piece`.
        highest: no λ above it can be reached.
    """
    progress = cosines @ target
    worst = int(np.argmin(progress / rates))
    low, high = progress[worst] / rates[worst], highest
    level, v, support = low, np.zeros(len(target)), np.array([worst])
    for _ in range(100):
        slope = np.zeros(len(target))
        slope[support] = np.linalg.lstsq(cosines[np.ix_(support, support)], rates[support])[0]
        change = piece(v, slope)
        if change > 0:
            low = max(low, level)
        else:
            high = min(high, level)
        change = min(change, highest - level)
        if np.isfinite(change):
            at_limit = v + change * slope
            if _is_nearest(cosines, target, rates * (level + change), at_limit):
                return np.maximum(at_limit, 0.0)
        before, level = level, level + change
        if not low < level < high:
            level = (low + high) / 2
        if level in (low, high, before):  # neighbours in float64
            return v
        nearest = project(cosines, target, rates * level)
        if nearest is None:
            high, level = level, before
            continue
        v = nearest
        support = np.flatnonzero(v) if v.any() else support
    return v


def _is_nearest(cosines: np.ndarray, target: np.ndarray, bounds: np.ndarray, v: np.ndarray) -> bool:
    """Whether v are the multipliers of `project`, up to rounding."""
    size = 1e-14 * max(np.abs(target).max(), np.abs(v).max(), bounds.max())
    slack = cosines @ (target + v) - bounds
    return bool(v.min() >= -size and slack.min() >= -size and np.abs(slack[v > size]).max(initial=0.0) <= size)
