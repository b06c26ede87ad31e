"""Numeric features that heads read beside the texts: how raw values become numbers of about size 1.

A feature is positive (a price, a weight, a number of pieces). Its standardised value is (log v − mean) / std, mean and
std over the train split's impressions; where the value is unknown it is 0, that of the geometric mean.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

RULE = "x = (log(value) - mean) / std; 0 where the value is unknown"


class FeatureScale(BaseModel):
    """How one feature is standardised, and between which values it was seen in the train split.

    Attributes:
        mean, std: of the natural logarithm of known values.
        least, most: known values.
    """

    model_config = ConfigDict(extra="forbid")

    mean: float
    std: float
    least: float
    most: float

    def standardise(self, values: np.ndarray) -> np.ndarray:
        """float32 of the shape of `values` (positive, NaN where unknown)."""
        values = np.asarray(values, dtype=np.float64)
        known = np.isfinite(values)
        logs = np.log(np.where(known, values, 1.0))
        return np.where(known, (logs - self.mean) / self.std, 0.0).astype(np.float32)


def as_feature(value: Any) -> float | None:
    """A cell of a table as the value of a feature: None where it is missing, or text that spells no number.

    Raises:
        ValueError: it is a number that no feature may be: infinite, or not above 0.
    """
    try:
        number = math.nan if value is None else float(value)
    except (TypeError, ValueError):
        return None
    if math.isnan(number):
        return None
    if not 0 < number < math.inf:
        raise ValueError(f"{number:g} is no number above 0")
    return number


Scales = Mapping[str, FeatureScale]


def read_scales(record: Mapping[str, Any]) -> dict[str, FeatureScale]:
    """Scales by the names of their features, from JSON; keys that do not belong to a scale are left out."""
    return {
        name: FeatureScale(**{key: about[key] for key in FeatureScale.model_fields}) for name, about in record.items()
    }


def standardised(scales: Scales, values: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
    """Raw values of candidates, (C, F) in the order of `scales`, as float32 (C, F)."""
    raw = np.asarray(values, dtype=np.float64).reshape(len(values), len(scales))
    columns = [scale.standardise(raw[:, place]) for place, scale in enumerate(scales.values())]
    return np.stack(columns, axis=1) if columns else np.zeros((len(raw), 0), dtype=np.float32)
