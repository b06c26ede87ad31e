"""Nash-MTL: the objectives bargain for the step; the solution maximises the product of their progresses.

Navon et al. 2022, "Multi-Task Learning as a Bargaining Game", equation 3: G α = p / α elementwise, with the preference
p as bargaining power (the asymmetric solution, Kalai 1977). Norms cancel: β = α·norm solves C β = p / β on cosines.
"""

import numpy as np

from equipoise.train.balancing.fairgrad import fairgrad
from equipoise.train.balancing.problem import Problem


def nash(problem: Problem) -> np.ndarray:
    """α with α_k ⟨g_k, d⟩ ∝ preference_k: the α-fair step of `fairgrad` for α = 1.

    The solution's own length is one over that of the gradients and says nothing, so weights are scaled to Σ α = 1.
    Where 0 is in the hull of the gradients the solution grows without bound towards weights of 0: those are returned.

    Returns:
        α > 0, float64 (A,), Σ α = 1.
    """
    return fairgrad(problem, alpha=1.0)
