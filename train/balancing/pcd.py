"""Priority-Constrained Descent: the primary objective's gradient, bent as little as the promises to the others need
("Not All Objectives Are Born Equal", TMLR 2026, arXiv:2606.29521).

    d̃ = argmin ½‖d − g̃_1‖²  subject to  ⟨g̃_j, d⟩ ≥ τ_j ‖g̃_j‖² for every other j,  d = d̃ · ‖g_1‖/‖d̃‖,

g̃_k = g_k/√v̂_k, v̂_k the bias-corrected moving average of ‖g_k‖². Bounds that no point keeps are all dropped (d = g_1),
and d̃ = 0 gives d = 0, as in TorchJD's code; the ε that it adds to v̂ is left out, for no gradient here is zero. Ours:
the preference raises the promises, τ_j = min(1, tau p_j/p_1), and while the primary has no gradient in the solve, the
shortest step that keeps the promises is taken, in the primary's usual length: d = √v̂_1 d̃ with g̃_1 = 0.

Promises come before the primary: where gradients are opposed d follows the others, so no point of the front is at rest,
and a long descent ends at the others' minima, the later the smaller tau is.
"""

from typing import Any

import numpy as np

from equipoise.configs.balancing import PcdOptions
from equipoise.train.balancing.moving_average import MovingAverage
from equipoise.train.balancing.problem import Method, Problem
from equipoise.train.balancing.projection import project, semidefinite

VANISHED = 10 * np.finfo(np.float64).eps
"""‖d̃‖² is zero below this share of the square of what it was summed from."""


class Pcd(Method):
    """Keeps the moving averages, and the preferences seen: without `primary`, the highest of them leads."""

    def __init__(self, options: PcdOptions) -> None:
        self._named, self._tau = options.primary, options.tau
        self._squares = MovingAverage(options.momentum)
        self._preference: dict[str, float] = {}

    def weights(self, problem: Problem) -> np.ndarray:
        """α ≥ 0, float64 (A,)."""
        self._preference.update(zip(problem.names, problem.preference.tolist(), strict=True))
        primary = self._named or max(self._preference, key=lambda name: self._preference[name])
        usual = np.array(
            [self._squares.update(n, float(x) ** 2) ** 0.5 for n, x in zip(problem.names, problem.norms, strict=True)]
        )
        sizes = problem.norms / usual  # ‖g̃‖
        first = np.array([name == primary for name in problem.names])
        leading = self._preference.get(primary, problem.preference)  # named, but never seen: the promises are tau
        bounds = np.where(first, -np.inf, np.minimum(1.0, self._tau * problem.preference / leading) * sizes)
        target = np.where(first, sizes, 0.0)
        cosines = semidefinite(problem.cosines)
        extra = project(cosines, target, bounds)
        u = target if extra is None else target + extra
        return u * self._unit(problem, primary, u, float(u @ cosines @ u), usual) / problem.norms

    def _unit(self, problem: Problem, primary: str, u: np.ndarray, square: float, usual: np.ndarray) -> float:
        """What one unit of d̃ (coefficients u, squared length) is in d."""
        if primary not in problem.names:
            return self._squares[primary] ** 0.5 if primary in self._squares else float(usual.mean())
        if not square > VANISHED * u.sum() ** 2:
            return 0.0
        return float(problem.norms[problem.names.index(primary)]) / square**0.5

    def state(self) -> dict[str, Any]:
        """Averages of the squared norms, and preferences, by name."""
        return {"squares": self._squares.state(), "preference": self._preference}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._squares.restore(state["squares"])
        self._preference = dict(state["preference"])
