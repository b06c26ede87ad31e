"""MGDA: the min-norm point of the convex hull of the gradients (Désidéri 2012; Sener & Koltun 2018).

Solved exactly, as non-negative least squares on cosines, so that norms many powers of ten apart do no harm and
opposed, duplicate or dependent gradients need no special case.
"""

import numpy as np

from equipoise.train.balancing.problem import Problem
from equipoise.train.balancing.projection import factor, nonnegative_least_squares


def mgda(problem: Problem) -> np.ndarray:
    """argmin_α ‖Σ α_k g_k‖² over the simplex, in the metric of the preference: ⟨g_k, d⟩ ∝ preference_k where α_k > 0.

    A preference p turns the hull into that of g_k / p_k, so that the max-min progress ⟨g_k, d⟩ / p_k is sought: what is
    preferred is promised more.

    Returns:
        α ≥ 0, float64 (A,), Σ α = 1.
    """
    # With u = α·norm the problem is min ‖Ru‖² over u ≥ 0, cᵀu = 1, c = p/norm: only c knows the scale. Up to a factor,
    # that is the u ≥ 0 of least ‖Ru‖² + (cᵀu − 1)², and the factor goes when Σ α is set to 1.
    c = problem.preference / problem.norms
    c = c / c.max()
    right = np.zeros(len(c) + 1)
    right[-1] = 1.0
    u = nonnegative_least_squares(np.vstack([factor(problem.cosines), c]), right)
    alpha = u * (problem.norms.min() / problem.norms)
    return alpha / alpha.sum()
