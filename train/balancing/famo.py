"""FAMO: all losses fall at one relative rate, seen from the losses alone (Liu et al. 2023, algorithm 1).

d = Σ z_k ∇log ℓ_k, z = softmax(w), scaled so that the weights on ∇ℓ sum to 1; after the step w moves by what each
log ℓ really lost: w ← w − lr·Adam((∂z/∂w)ᵀ δ + decay·w), δ_k = log ℓ_k(before) − log ℓ_k(after). As in the official
code, Adam moves w and 1e-8 is added to the losses, which are taken above their lower bounds.

The preference enters twice: the weights are p_k z_k/ℓ_k, and w moves by δ_k/p_k (p relative to its mean). With the
first alone z would learn to undo it; with both, log losses fall at rates proportional to p: with β ∝ p² z, this is
FAMO's dual descent for the objectives log ℓ_k / p_k.
"""

import math
from typing import Any

import numpy as np

from equipoise.configs.balancing import FamoOptions
from equipoise.train.balancing.adam import Adam
from equipoise.train.balancing.problem import Method, Problem

FLOOR = 1e-8
"""Added to a loss before its logarithm and in a denominator, as in the official code."""

LARGEST = 30.0
"""|w| stays below: without decay an objective that always falls fastest would drift for ever."""


class Famo(Method):
    """Learns from the losses before and after each step; see the module."""

    needs_losses_after = True

    def __init__(self, options: FamoOptions) -> None:
        self._w = Adam(options.lr, options.decay)
        self._preference: dict[str, float] = {}  # of the objectives in the last solve

    def weights(self, problem: Problem) -> np.ndarray:
        """α_k ∝ p_k z_k/ℓ_k, float64 (A,), Σ α = 1."""
        self._preference = dict(zip(problem.names, problem.preference.tolist(), strict=True))
        z = self._softmax(problem.names)
        alpha = problem.preference * z / (np.maximum(problem.losses, 0.0) + FLOOR)
        alpha = alpha / alpha.max()
        return alpha / alpha.sum()

    def after_step(self, before: dict[str, float], after: dict[str, float]) -> None:
        """Move w; objectives that the last solve left out, or that are missing here, keep theirs."""
        names = tuple(name for name in self._preference if name in before and name in after)
        if not names:
            return
        preference = np.array([self._preference[name] for name in names])
        fall = np.array([_log(before[name]) - _log(after[name]) for name in names]) * preference.mean() / preference
        z = self._softmax(names)
        self._w.move(dict(zip(names, (z * (fall - z @ fall)).tolist(), strict=True)), LARGEST)

    def _softmax(self, names: tuple[str, ...]) -> np.ndarray:
        w = np.array([self._w[name] for name in names])
        z = np.exp(w - w.max())
        return z / z.sum()

    def state(self) -> dict[str, Any]:
        """w and its moments, and whom the last solve moved, by name."""
        return {"w": self._w.state(), "preference": self._preference}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._w.restore(state["w"])
        self._preference = dict(state["preference"])


def _log(loss: float) -> float:
    return math.log(max(loss, 0.0) + FLOOR)
