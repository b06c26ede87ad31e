"""The Pareto front of measured points, all axes to be made large, and how much space it covers."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import moocore
import numpy as np

MARGIN = 0.1
"""How far below the nadir, in ranges, the normalised hypervolume has its reference point (Ishibuchi et al. 2018)."""


def front_mask(values: np.ndarray) -> np.ndarray:
    """Which of the points (P, A) no other one dominates, bool (P,); of equal points only the first."""
    return np.asarray(moocore.is_nondominated(np.asarray(values, np.float64), maximise=True, keep_weakly=False))


def hypervolume(values: np.ndarray, reference: np.ndarray) -> float:
    """Volume between the points (P, A) and a reference (A,) that they exceed (Zitzler & Thiele 1999)."""
    above = np.maximum(values, reference)  # a point below the reference spans nothing there, not a negative edge
    return float(moocore.hypervolume(np.asarray(above, np.float64), ref=np.asarray(reference), maximise=True))


@dataclass(frozen=True)
class Front:
    """The front of points (P, A).

    Attributes:
        values: of all points, float64 (P, A), larger is better.
        axes: their names.
    """

    values: np.ndarray
    axes: tuple[str, ...]

    @cached_property
    def mask(self) -> np.ndarray:
        """Which points are on the front, bool (P,)."""
        return front_mask(self.values)

    @property
    def points(self) -> np.ndarray:
        """Numbers of the points on the front, int64 (F,)."""
        return np.flatnonzero(self.mask)

    @property
    def ideal(self) -> np.ndarray:
        """The best value of every axis on the front, float64 (A,)."""
        return self.values[self.mask].max(axis=0)

    @property
    def nadir(self) -> np.ndarray:
        """The worst value of every axis on the front, float64 (A,)."""
        return self.values[self.mask].min(axis=0)

    @property
    def normalised(self) -> np.ndarray:
        """All points with the nadir at 0 and the ideal at 1, float64 (P, A); an axis without a range is 0."""
        span = self.ideal - self.nadir
        return np.divide(self.values - self.nadir, span, out=np.zeros_like(self.values), where=span > 0)

    @property
    def extremes(self) -> dict[str, int]:
        """The point of the front that is best on each axis; among equals the one with the best sum of the others."""
        numbers, normalised = self.points, self.normalised
        extremes = {}
        for column, axis in enumerate(self.axes):
            key = np.lexsort((normalised[numbers].sum(axis=1), normalised[numbers, column]))
            extremes[axis] = int(numbers[key[-1]])
        return extremes

    def covered(self) -> dict[str, Any]:
        """Hypervolumes: normalised to this front (share of the box, 0 to 1), and in the axes' own units from 0.

        The second has a fixed reference, so runs on the same requests and cutoff can be compared by it. Each stands
        beside that of the first point alone, pure relevance.
        """
        low = np.full(len(self.axes), -MARGIN)
        box = (1 + MARGIN) ** len(self.axes)
        normalised, zero = self.normalised, np.zeros(len(self.axes))
        return {
            "normalised": hypervolume(normalised[self.mask], low) / box,
            "normalised_relevance_alone": hypervolume(normalised[:1], low) / box,
            "reference": (self.nadir - MARGIN * (self.ideal - self.nadir)).tolist(),
            "from_zero": hypervolume(self.values[self.mask], zero),
            "from_zero_relevance_alone": hypervolume(self.values[:1], zero),
        }
