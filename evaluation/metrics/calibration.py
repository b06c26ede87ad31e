"""Calibration in bins: what was predicted and what was observed, as the reliability diagram shows it."""

from typing import Any

import numpy as np

from equipoise.evaluation.metrics.pointwise import BINS, bin_sums, tied_labels

Z = 1.959964
"""The 97.5 % quantile of the normal distribution."""


def calibration_bins(
    label: np.ndarray, probability: np.ndarray, bins: int = BINS, weight: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """Bins of equal mass over the predictions, those of the ECE: Σ rows/N · |observed − predicted| is the ECE.

    Args:
        label: 0 or 1, (N,).
        probability: in [0, 1], (N,).
        bins: how many; fewer where there are fewer rows.
        weight: how much each row counts, (N,); `rows` is then of how many equal rows a bin tells as much (Kish 1965).

    Returns:
        per bin, from the smallest predictions on: rows; predicted, the mean probability; observed, the mean label;
        interval, the 95 % interval of the observed rate (Wilson 1927). Empty without rows or with a prediction that
        is not finite. Rows of equal probability share their mean label, so that their order does not count.
    """
    label, probability = np.asarray(label), np.asarray(probability, np.float64)
    if not len(label) or not np.isfinite(probability).all():
        return []
    if weight is not None:
        sums = bin_sums(label, probability, np.asarray(weight, np.float64), min(bins, len(label)))
        return [_weighed_bin(*map(float, each)) for each in zip(*sums, strict=True)]
    *means, counts = tied_labels(label, probability)
    parts = zip(*(np.array_split(np.repeat(column, counts), bins) for column in means), strict=True)
    return [
        {
            "rows": len(predicted),
            "predicted": float(predicted.mean()),
            "observed": float(observed.mean()),
            "interval": wilson(float(observed.mean()), len(predicted)),
        }
        for predicted, observed in parts
        if len(predicted)
    ]


def _weighed_bin(mass: float, predicted: float, observed: float, squares: float) -> dict[str, Any]:
    """One bin from its `bin_sums`."""
    rows, rate = max(1, round(mass**2 / squares)), min(max(observed / mass, 0.0), 1.0)
    return {"rows": rows, "predicted": predicted / mass, "observed": rate, "interval": wilson(rate, rows)}


def wilson(rate: float, rows: int) -> list[float]:
    """The 95 % score interval of a rate that was observed in `rows` rows (Wilson 1927)."""
    centre, spread = rate + Z**2 / (2 * rows), Z * float(np.sqrt(rate * (1 - rate) / rows + Z**2 / (4 * rows**2)))
    low, high = (centre - spread) / (1 + Z**2 / rows), (centre + spread) / (1 + Z**2 / rows)
    return [max(0.0, low), min(1.0, high)]
