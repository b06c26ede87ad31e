"""How surely the data show that demand answers to the price: intervals over bootstrap replicates of the linear prior.

Shape suffixes: B resamples, P pairs of candidate and price, G prices of one candidate.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import expit, logit

INTERVAL = (0.025, 0.975)
CLOSEST = 1e-12
"""To 0 and 1, so that log-odds are finite."""


@dataclass(frozen=True)
class Interval:
    """A 95 % interval over the resamples, by percentiles."""

    low: float
    high: float

    @property
    def below_zero(self) -> bool:
        """Whether it lies below 0 wholly."""
        return self.high < 0

    def to_json(self) -> dict[str, float]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Replicates:
    """How far each resample moves the log-odds of the pairs of a request.

    Attributes:
        moved: float64 (B, P) of each objective of the demand.
        overall: float64 (B,), the elasticity of demand over the training data; None where the prior does not read
            the price as its logarithm.
    """

    moved: Mapping[str, np.ndarray]
    overall: np.ndarray | None

    @property
    def count(self) -> int:
        """B."""
        return min(len(values) for values in self.moved.values())

    @property
    def elasticity(self) -> Interval | None:
        """Of all demand."""
        return None if self.overall is None else interval_of(self.overall)

    def demand(self, probabilities: Mapping[str, np.ndarray]) -> np.ndarray:
        """P(click and purchase) by every resample, float64 (B, P), from the model's probabilities, (P,) each."""
        demand_BP = np.ones(1)
        for name, moved_BP in self.moved.items():
            own_P = logit(np.clip(probabilities[name], CLOSEST, 1 - CLOSEST))
            demand_BP = demand_BP * expit(own_P + moved_BP)
        return demand_BP


@dataclass(frozen=True)
class Evidence:
    """What the resamples say of one candidate.

    Attributes:
        elasticity: of demand between its lowest and highest price; None with one price.
        price: of the best price that may be chosen; None where none may.
        gain: of what the chosen price is expected to earn more than the present one; None where that is unknown.
    """

    elasticity: Interval | None
    price: Interval | None
    gain: Interval | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def interval_of(values: np.ndarray) -> Interval:
    """The percentiles of values (B,)."""
    low, high = np.quantile(values, INTERVAL)
    return Interval(float(low), float(high))


def evidence_of(
    demand_BG: np.ndarray, prices_G: np.ndarray, cost: float, may_G: np.ndarray, chosen: int | None, current: int | None
) -> Evidence:
    """Intervals of one candidate.

    Args:
        demand_BG: by every resample, at every price.
        prices_G: ascending.
        cost: 0 for revenue.
        may_G: bool, the prices that may be chosen.
        chosen, current: places of the best and of the present price.
    """
    elasticity = price = gain = None
    expected_BG = (prices_G - cost) * demand_BG
    if len(prices_G) > 1:
        logs_BG = np.log(np.maximum(demand_BG[:, [0, -1]], CLOSEST))
        elasticity = interval_of((logs_BG[:, 1] - logs_BG[:, 0]) / np.log(prices_G[-1] / prices_G[0]))
    if may_G.any():
        best_B = np.where(may_G, expected_BG, -np.inf).argmax(1)
        low, high = np.quantile(prices_G[best_B], INTERVAL, method="nearest")  # a price that may be asked
        price = Interval(float(low), float(high))
    if chosen is not None and current is not None:
        gain = interval_of(expected_BG[:, chosen] - expected_BG[:, current])
    return Evidence(elasticity, price, gain)
