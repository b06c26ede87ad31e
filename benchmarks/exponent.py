"""The exponent of a power law in a measured curve."""

from collections.abc import Sequence

import numpy as np


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """The slope of log y against log x, by least squares over all points; 1 where y is proportional to x.

    Raises:
        ValueError: fewer than two different x, or a value that is not positive.
    """
    abscissa, ordinate = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(set(abscissa)) < 2 or not (abscissa > 0).all() or not (ordinate > 0).all():
        raise ValueError("an exponent needs two different x at least, and positive values")
    return float(np.polyfit(np.log(abscissa), np.log(ordinate), 1)[0])
