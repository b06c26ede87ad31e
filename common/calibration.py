"""A correction of logits after training, so that probabilities are true on validation data: a straight line or a curve.

Both rise strictly, so that a calibration changes no order of one objective's probabilities.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

RULES = {
    "platt": "logit' = slope * logit + intercept, of the logit with its offset",
    "isotonic": "logit' is interpolated between the knots (logits -> calibrated); beyond them it goes on with slope 1",
}


@dataclass(frozen=True)
class Calibration:
    """The correction of one objective.

    Attributes:
        method: `platt` (Platt 1999) or `isotonic` (Zadrozny & Elkan 2002), drawn through the centres of its steps.
        slope, intercept: of the line, slope above 0.
        logits, calibrated: knots of the curve, strictly and weakly ascending.
    """

    method: Literal["platt", "isotonic"]
    slope: float = 1.0
    intercept: float = 0.0
    logits: tuple[float, ...] = ()
    calibrated: tuple[float, ...] = ()

    def __call__(self, logit: np.ndarray) -> np.ndarray:
        """The corrected logits, float64 of the shape of `logit`."""
        logit = np.asarray(logit, np.float64)
        if self.method == "platt":
            return self.slope * logit + self.intercept
        inside = np.interp(logit, self.logits, self.calibrated)
        return inside + np.minimum(logit - self.logits[0], 0) + np.maximum(logit - self.logits[-1], 0)

    def to_json(self) -> dict[str, Any]:
        """As `of` reads it, with the rule in words."""
        line = {"slope": self.slope, "intercept": self.intercept}
        curve = {"logits": list(self.logits), "calibrated": list(self.calibrated)}
        return {"method": self.method, "rule": RULES[self.method], **(line if self.method == "platt" else curve)}

    @staticmethod
    def of(record: Mapping[str, Any]) -> "Calibration":
        """From `to_json`."""
        knots = (tuple(map(float, record.get(name, ()))) for name in ("logits", "calibrated"))
        return Calibration(record["method"], record.get("slope", 1.0), record.get("intercept", 0.0), *knots)


Calibrations = Mapping[str, Calibration]
"""By objective; those that are not named stay as they are."""


def with_calibration(scores: Mapping[str, np.ndarray], calibrations: Calibrations) -> dict[str, np.ndarray]:
    """Scores by name, the logits that have a calibration corrected."""
    return {name: calibrations[name](values) if name in calibrations else values for name, values in scores.items()}
