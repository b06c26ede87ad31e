"""Numeric features that heads read beside the texts: how raw values become numbers of about size 1.

A feature is above 0 (a price, a weight; scale `log`) or 0 and more (how often, how long; scale `log1p`). Its
standardised value is (log v − mean) / std, or the same of log(1 + v), mean and std over the train split's impressions;
where the value is unknown it is 0, so that it adds nothing to a logit.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from configs.features import ScaleName

RULES = {
    "log": "x = (log(value) - mean) / std; 0 where the value is unknown",
    "log1p": "x = (log(1 + value) - mean) / std; 0 where the value is unknown",
}
KINDS = {"log": "number above 0", "log1p": "number of 0 or more"}
"""What the values of a feature must be, in words."""


def fits(value: float, scale: ScaleName) -> bool:
    """Whether a scale takes a value: finite, and above 0 for `log`, 0 or more for `log1p`."""
    return (value > 0 or (scale == "log1p" and value == 0)) and value < math.inf


class FeatureScale(BaseModel):
    """How one feature is standardised, and between which values it was seen in the train split.

    Attributes:
        scale: log (natural) or log1p.
        mean, std: of the logarithms of known values.
        least, most: known values.
    """

    model_config = ConfigDict(extra="forbid")

    scale: ScaleName = "log"
    mean: float
    std: float
    least: float
    most: float

    def standardise(self, values: np.ndarray) -> np.ndarray:
        """float32 of the shape of `values` (of this scale's kind, NaN where unknown)."""
        values = np.asarray(values, dtype=np.float64)
        known = np.isfinite(values)
        log = np.log if self.scale == "log" else np.log1p
        return np.where(known, (log(np.where(known, values, 1.0)) - self.mean) / self.std, 0.0).astype(np.float32)

    def read(self, value: Any) -> float | None:
        """A cell of a table as a value: None where it is missing, or text that spells no number.

        Raises:
            ValueError: it is a number that this scale does not take: infinite, not above 0, or for log1p below 0.
        """
        try:
            number = math.nan if value is None else float(value)
        except (TypeError, ValueError):
            return None
        if math.isnan(number):
            return None
        if not fits(number, self.scale):
            raise ValueError(f"{number:g} is no {KINDS[self.scale]}")
        return number


Scales = Mapping[str, FeatureScale]


def read_scales(record: Mapping[str, Any]) -> dict[str, FeatureScale]:
    """Scales by the names of their features, from JSON; keys that do not belong to a scale are left out."""
    known = FeatureScale.model_fields
    return {name: FeatureScale(**{key: about[key] for key in known if key in about}) for name, about in record.items()}


def standardised(scales: Scales, values: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
    """Raw values of candidates, (C, F) in the order of `scales`, as float32 (C, F)."""
    raw = np.asarray(values, dtype=np.float64).reshape(len(values), len(scales))
    columns = [scale.standardise(raw[:, place]) for place, scale in enumerate(scales.values())]
    return np.stack(columns, axis=1) if columns else np.zeros((len(raw), 0), dtype=np.float32)
