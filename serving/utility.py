"""The utility of a candidate as a sum of named terms, for ranking and for explaining both."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class UtilityWeights:
    """u = Σ v_j log p_j + Σ ω_k δ_k + ω_value log value + boost.

    Attributes:
        omega: ω by list-wise objective; one that is not named has 0.
        relevance: v by pointwise objective; one that is not named has 1.
        value: ω_value.
    """

    omega: Mapping[str, float] = field(default_factory=dict)
    relevance: Mapping[str, float] = field(default_factory=dict)
    value: float = 0.0

    def terms(
        self, logs: Mapping[str, float], deltas: Mapping[str, float], value: float | None = None, boost: float = 0.0
    ) -> dict[str, float]:
        """The terms of u by name: pointwise and list-wise objectives, `value` and `boost`; they add up to u.

        Args:
            logs: log p of each pointwise objective.
            deltas: δ of each list-wise objective.
            value: of the candidate, positive; may be None where `value` has no weight.
            boost: added as it is.
        """
        terms = {name: self.relevance.get(name, 1.0) * log for name, log in logs.items()}
        terms |= {name: self.omega.get(name, 0.0) * delta for name, delta in deltas.items()}
        terms["value"] = self.value * math.log(value) if self.value and value is not None else 0.0
        terms["boost"] = boost
        return terms
