"""A moving average of the Gram matrix, and the nearest matrix that is one."""

from typing import Any

import numpy as np


class MovingGram:
    """Σ_t (1 − m) m^(T−t) G_t, divided by the sum of its factors; an entry that is not finite leaves the old one."""

    def __init__(self, count: int, momentum: float) -> None:
        self.momentum = momentum
        self._sum = np.zeros((count, count))
        self._mass = np.zeros((count, count))

    def update(self, gram: np.ndarray) -> np.ndarray:
        """Take in one (K, K) matrix and return the average; NaN where nothing finite has been seen yet."""
        finite = np.isfinite(gram)
        keep = np.where(finite, self.momentum, 1.0)
        self._sum = keep * self._sum + (1 - keep) * np.where(finite, gram, 0.0)
        self._mass = keep * self._mass + (1 - keep)
        with np.errstate(invalid="ignore", divide="ignore"):
            return self._sum / self._mass

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"sum": self._sum.tolist(), "mass": self._mass.tolist()}

    def restore(self, state: dict[str, Any]) -> None:
        """From the checkpoint."""
        self._sum, self._mass = np.array(state["sum"]), np.array(state["mass"])


def nearest_gram(matrix: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The nearest positive semi-definite matrix in the metric that divides row and column k by sizes_k.

    Without that metric the longest gradient's noise would decide about the angles of all others.

    Args:
        matrix: (K, K), symmetric; rows that are not finite stay as they are.
        sizes: (K,) lengths of the gradients, ≥ 0; rows of size 0 become 0.
    """
    result = np.array(matrix, dtype=np.float64)
    rows = np.flatnonzero(np.isfinite(np.diag(result)) & np.isfinite(sizes))
    held = rows[sizes[rows] > 0]
    result[np.ix_(rows, rows)] = 0.0
    scale = np.outer(sizes[held], sizes[held])
    part = np.nan_to_num(matrix[np.ix_(held, held)] / scale)
    values, vectors = np.linalg.eigh((part + part.T) / 2)
    result[np.ix_(held, held)] = (vectors * np.maximum(values, 0.0)) @ vectors.T * scale
    return result
