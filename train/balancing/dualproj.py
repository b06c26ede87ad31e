"""DualProj: the fixed combination, moved as little as needed to harm nobody.

Lopez-Paz & Ranzato 2017, "Gradient Episodic Memory for Continual Learning", equation 11; the name is TorchJD's.
"""

import numpy as np

from equipoise.train.balancing.problem import Problem
from equipoise.train.balancing.projection import project, semidefinite


def dualproj(problem: Problem) -> np.ndarray:
    """α of the point nearest to Σ preference_i g_i with ⟨g_k, d⟩ ≥ 0 for all k.

    Returns:
        α ≥ preference, float64 (A,).
    """
    sizes = problem.preference * problem.norms
    v = project(semidefinite(problem.cosines), sizes, np.zeros(len(sizes)))
    assert v is not None  # 0 keeps all bounds
    return problem.preference + v / problem.norms
