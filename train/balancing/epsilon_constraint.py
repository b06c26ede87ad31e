"""ε-constraints: the free objectives descend, while each bounded loss is brought below its bound and held there.

d is the point nearest to Σ_free p_k g_k with, for every bounded j, the dynamic barrier of Gong, Liu & Liu 2021
("Bi-objective Trade-off with Dynamic Barrier Gradient Descent", there with one constraint):

    ⟨g_j, d⟩ ≥ φ_j,   φ_j = rate · ‖g_j‖² · clip((L̄_j − ε_j)/|ε_j|, −1, 1),

L̄ the bias-corrected moving average of the loss. Above the bound the loss must fall, the faster the farther it is off;
below it may rise, the less the nearer it is. Where no point keeps all bounds, repair comes first: the min-norm point of
the broken ones alone (`mgda`), which lowers them all.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from equipoise.configs.balancing import EpsilonConstraintOptions
from equipoise.train.balancing.mgda import mgda
from equipoise.train.balancing.moving_average import MovingAverage
from equipoise.train.balancing.problem import Method, Problem
from equipoise.train.balancing.projection import project, semidefinite

SMALLEST_BOUND = 1e-12
"""Distances are relative to |ε|; to this where ε is 0, so that any loss above it counts as far off."""


class EpsilonConstraint(Method):
    """Keeps L̄ by name; bounds are in the units of the logged losses."""

    def __init__(self, options: EpsilonConstraintOptions) -> None:
        self._bounds, self._rate = dict(options.bounds), options.rate
        self._losses = MovingAverage(options.momentum)

    def weights(self, problem: Problem) -> np.ndarray:
        """α ≥ 0, float64 (A,); the preference on the free ones and 0 on the bounded ones while no bound is touched."""
        over = self._over(problem)
        free = np.isnan(over)
        bounds = np.where(free, -np.inf, self._rate * problem.norms * np.clip(over, -1.0, 1.0))
        target = np.where(free, problem.preference * problem.norms, 0.0)
        extra = project(semidefinite(problem.cosines), target, bounds)
        if extra is None:
            return _repair(problem, np.flatnonzero(over > 0))
        return (target + extra) / problem.norms

    def _over(self, problem: Problem) -> np.ndarray:
        """By how much each L̄ exceeds its bound, relative to the bound, (A,); NaN where there is none."""
        over = np.full(len(problem.names), np.nan)
        for k, (name, loss) in enumerate(zip(problem.names, problem.losses + problem.least, strict=True)):
            if name in self._bounds:
                bound = self._bounds[name]
                over[k] = (self._losses.update(name, float(loss)) - bound) / max(abs(bound), SMALLEST_BOUND)
        return over

    def state(self) -> dict[str, Any]:
        """L̄ by name."""
        return {"losses": self._losses.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._losses.restore(state["losses"])


def _repair(problem: Problem, broken: np.ndarray) -> np.ndarray:
    """The min-norm weights of these objectives, 0 on the others."""
    part = replace(
        problem,
        names=tuple(problem.names[k] for k in broken),
        cosines=problem.cosines[np.ix_(broken, broken)],
        norms=problem.norms[broken],
        preference=problem.preference[broken],
        losses=problem.losses[broken],
    )
    alpha = np.zeros(len(problem.names))
    alpha[broken] = mgda(part)
    return alpha
