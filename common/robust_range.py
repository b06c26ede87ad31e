"""The range that a picture shows, so that an outlier does not flatten what stands beside it."""

from collections.abc import Iterable

import numpy as np

FEWEST = 8
"""Fewer values are all shown."""


def robust_range(values: Iterable[float]) -> tuple[float, float]:
    """The smallest and largest finite value, but no farther out than one span of the middle nine tenths beyond them.

    Pages follow the same rule (`common/page/draw.js`). (0, 1) without finite values.
    """
    array = np.asarray(list(values), dtype=np.float64)
    array = array[np.isfinite(array)]
    if not len(array):
        return 0.0, 1.0
    low, high = float(array.min()), float(array.max())
    if len(array) < FEWEST:
        return low, high
    first, last = np.quantile(array, [0.05, 0.95])
    span = last - first
    return max(low, float(first - span)), min(high, float(last + span))
