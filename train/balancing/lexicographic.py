"""Priorities: what is lower in rank never takes progress from what is higher.

d_1 = p_1 g_1; then d_k is the point nearest to d_{k−1} + p_k g_k with ⟨g_j, d⟩ ≥ ⟨g_j, d_j⟩ for all j above k, less the
share `tolerance` of that progress. d_{k−1} keeps all these bounds, so there always is such a point. A lexicographic
optimum (Skalse et al. 2022, "Lexicographic Multi-Objective Reinforcement Learning") is sought by projecting a gradient
onto the half-spaces that do not hurt the others (Lopez-Paz & Ranzato 2017, "Gradient Episodic Memory").
"""

import numpy as np

from equipoise.train.balancing.problem import Problem
from equipoise.train.balancing.projection import project, semidefinite


def priorities(problem: Problem, order: list[str] | None) -> list[int]:
    """Indices by rank: those that `order` names, then the others by falling preference, ties as they come."""
    named = [problem.names.index(name) for name in order or [] if name in problem.names]
    others = [k for k in range(len(problem.names)) if k not in named]
    return named + sorted(others, key=lambda k: -problem.preference[k])


def lexicographic(problem: Problem, order: list[str] | None = None, tolerance: float = 0.0) -> np.ndarray:
    """α of the last d_k.

    Args:
        problem: reads cosines, norms and preference.
        order: names by falling priority; None is by preference.
        tolerance: 0: no progress of a higher priority is lost; 1: it is never turned into the opposite.

    Returns:
        α ≥ 0, float64 (A,); the preference where nothing conflicts.
    """
    cosines = semidefinite(problem.cosines)
    u = np.zeros(len(problem.names))  # d in units of the unit gradients
    bounds = np.full(len(u), -np.inf)
    for k in priorities(problem, order):
        target = u.copy()
        target[k] += problem.preference[k] * problem.norms[k]
        extra = project(cosines, target, bounds)
        if extra is not None:  # None is rounding where bounds all but oppose one another: d stays as it keeps them
            u = target + extra
        progress = float(cosines[k] @ u)
        # Where the higher ones leave g_k no progress at all, what is left is held as it is.
        bounds[k] = progress - tolerance * max(progress, 0.0)
    return u / problem.norms
