"""Whether what was learned is surely better on the valid split than what it began as: beyond chance, and beyond the
level, for how much is clicked differs from day to day, and what only moves the level to that of these days is no gain.
"""

from collections.abc import Sequence

import numpy as np

CONFIDENCE = 0.95
GROUPS = 20
LEVEL_STEPS = 10


def best_level(odds: np.ndarray, label: np.ndarray, weight: np.ndarray | None = None) -> float:
    """The constant on all log-odds (N,) at which the mean probability is the mean label (N,), by Newton's steps.

    Bounded, for labels that are all alike. `weight`, (N,): how much each row counts; None counts all alike.
    """
    mass = np.ones(len(odds)) if weight is None else weight
    level = 0.0
    for _ in range(LEVEL_STEPS):
        probability = 1 / (1 + np.exp(-(odds + level)))
        curve = float((mass * probability * (1 - probability)).sum())
        step = float((mass * (label - probability)).sum()) / max(curve, 1e-12)
        level += float(np.clip(step, -1.0, 1.0))
    return level


def groups_of(request: np.ndarray) -> np.ndarray:
    """Number of each row's group, int64 (N,): whole requests, dealt out in turn to 20 groups, or to fewer requests."""
    return np.unique(request, return_inverse=True)[1] % GROUPS


def surely_above(gains: Sequence[float]) -> bool:
    """Whether a gain is surely above 0, by its values where each group of requests is left out in turn.

    The delete-a-group jackknife (Kott 2001) with Student's t; never where one of them is undefined.
    """
    count = len(gains)
    if count < 2 or not np.isfinite(gains).all():
        return False
    from scipy.special import stdtrit

    values = np.asarray(gains, np.float64)
    error = np.sqrt((count - 1) / count * ((values - values.mean()) ** 2).sum())
    return bool(values.mean() > stdtrit(count - 1, (1 + CONFIDENCE) / 2) * error)
