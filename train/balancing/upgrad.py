"""UPGrad: each gradient is projected onto the cone of directions that harm nobody, and the projections are added.

Quinton & Rey 2024, "Jacobian Descent for Multi-Objective Optimization", section 3. Theirs is the mean; the sum is taken
here, so that weights are the preference where nothing conflicts.
"""

import numpy as np

from equipoise.train.balancing.problem import Problem
from equipoise.train.balancing.projection import project, semidefinite


def upgrad(problem: Problem) -> np.ndarray:
    """α of Σ_i preference_i · (the point nearest to g_i with ⟨g_k, d⟩ ≥ 0 for all k).

    Returns:
        α ≥ preference, float64 (A,).
    """
    count = len(problem.norms)
    cosines = semidefinite(problem.cosines)
    sizes = problem.preference * problem.norms
    added = np.zeros(count)
    for i in range(count):  # each as a unit gradient, for the cone knows no lengths
        v = project(cosines, np.eye(count)[i], np.zeros(count))
        assert v is not None  # 0 keeps all bounds
        added += sizes[i] * v
    return problem.preference + added / problem.norms
