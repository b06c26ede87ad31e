"""Uncertainty weighting: losses weigh ½/σ², and the σ are learnt (Kendall, Gal & Cipolla 2018, equation 7).

In the form that is learnt, s = log σ²: minimise Σ ½ e^{−s_k} L_k + ½ s_k over s. The paper learns s with the network's
optimizer; here by an Adam of its own, from s = 0, one move per solve. At rest σ_k² = L_k: all losses fall at their own
relative rate. The preference multiplies the weight and not the loss that s reads, or s would undo it.
"""

import math
from typing import Any

import numpy as np

from equipoise.configs.balancing import UncertaintyOptions
from equipoise.train.balancing.adam import Adam
from equipoise.train.balancing.problem import Method, Problem

LARGEST = 20.0
"""|s| stays below: a loss that has come to 0 would pull its s to −∞, and its weight to ∞."""


class Uncertainty(Method):
    """α_k = p_k ½ e^{−s_k}."""

    def __init__(self, options: UncertaintyOptions) -> None:
        self._s = Adam(options.lr)

    def weights(self, problem: Problem) -> np.ndarray:
        """α, float64 (A,), from s before this solve moves it."""
        half = {name: 0.5 * math.exp(-self._s[name]) for name in problem.names}
        alpha = problem.preference * np.array(list(half.values()))
        losses = zip(problem.names, problem.losses, strict=True)
        self._s.move({name: 0.5 - half[name] * float(loss) for name, loss in losses}, LARGEST)
        return alpha

    def state(self) -> dict[str, Any]:
        """s and its moments, by name."""
        return {"s": self._s.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._s.restore(state["s"])
