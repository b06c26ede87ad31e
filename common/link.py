"""From what a pointwise head gives (with its offset) to the number that it stands for, and to its logarithm."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

FAR = -20.0
"""Below this, log softplus(x) is x in float32."""


@dataclass(frozen=True)
class Link:
    """The link of one objective.

    Attributes:
        name: `sigmoid` (a probability), `identity` or `softplus` (a value in units of `scale`), `exp` (a count).
        scale: what 1 stands for, in the label's unit.
    """

    name: Literal["sigmoid", "identity", "softplus", "exp"] = "sigmoid"
    scale: float = 1.0

    def value(self, output: np.ndarray) -> np.ndarray:
        """The number, float64, of the shape of `output`."""
        output = np.asarray(output, np.float64)
        if self.name == "sigmoid":
            with np.errstate(over="ignore"):
                return 1 / (1 + np.exp(-output))
        if self.name == "exp":
            return self.scale * np.exp(output)
        return self.scale * (np.logaddexp(0, output) if self.name == "softplus" else output)

    def log(self, output: float) -> float | None:
        """log of the number, finite where it would underflow; None where it need not be above 0."""
        if self.name == "sigmoid":
            return -math.log1p(math.exp(-output)) if output > 0 else output - math.log1p(math.exp(output))
        if self.name == "identity":
            return None
        if self.name == "softplus" and output > FAR:
            output = math.log(np.logaddexp(0, output))
        return math.log(self.scale) + output

    def logs(self, output: np.ndarray) -> np.ndarray:
        """log of the numbers, float64, of the shape of `output`; only of a link whose numbers are above 0."""
        output = np.asarray(output, np.float64)
        if self.name == "sigmoid":
            return -np.logaddexp(0, -output)
        if self.name == "softplus":
            output = np.where(output > FAR, np.log(np.logaddexp(0, np.maximum(output, FAR))), output)
        return math.log(self.scale) + output

    @property
    def formula(self) -> str:
        """How to turn the raw output into the number, in words of serving.json."""
        inner = "logit + logit_offset"
        if self.name == "sigmoid":
            return f"sigmoid({inner})"
        if self.name == "exp":
            return f"exp({inner})"
        return f"scale * softplus({inner})" if self.name == "softplus" else f"scale * ({inner})"

    def to_json(self) -> dict[str, Any]:
        """As `of` reads it."""
        return {"link": self.name, "scale": self.scale}

    @staticmethod
    def of(record: Mapping[str, Any] | None) -> "Link":
        """From `to_json`, or from a record of before there was one: a probability."""
        if not record or "link" not in record:
            return Link()
        return Link(record["link"], float(record["scale"]))


def start_of(link: Link, mean: float) -> float:
    """The output at which the link gives `mean`: where a head starts, its offset."""
    if link.name == "sigmoid":
        return math.log(mean / (1 - mean))
    ratio = mean / link.scale
    if link.name == "exp":
        return math.log(ratio)
    return ratio if link.name == "identity" else ratio + math.log(-math.expm1(-ratio))
