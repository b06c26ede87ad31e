"""IMTL-G: the step that goes equally far along every unit gradient.

Liu et al. 2021, "Towards Impartial Multi-Task Learning", equation 6. The paper's weights add up to 1; that sum may
vanish or be negative, which would turn the step around, so here their absolute values do (the same where all are
positive).
"""

import numpy as np

from equipoise.train.balancing.problem import Problem
from equipoise.train.balancing.projection import RANK


def imtl_g(problem: Problem) -> np.ndarray:
    """α with ⟨e_k, d⟩ ∝ preference_k for all k, e_k the unit gradients.

    Of dependent gradients that cannot all be satisfied, the least-squares solution is taken (pseudo-inverse). Where
    even that is 0, as for two opposed gradients, preference / norm is what regular matrices tend to, and then d = 0.

    Returns:
        α, float64 (A,), of either sign, Σ |α| = 1.
    """
    values, vectors = np.linalg.eigh(problem.cosines)
    along = vectors.T @ problem.preference
    kept = values > RANK
    beta = vectors[:, kept] @ (along[kept] / values[kept])
    if kept.all():  # twice as exact on all but dependent gradients
        beta = np.linalg.solve(problem.cosines, problem.preference)
    elif np.linalg.norm(along[kept]) <= 1e-10 * np.linalg.norm(along):
        beta = problem.preference
    alpha = beta * (problem.norms.min() / problem.norms)
    return alpha / np.abs(alpha).sum()
