"""FairGrad: the step that is α-fair in the progress of the objectives.

Ban & Ji 2024, "Fair Resource Allocation in Multi-Task Learning", equation 4: G w = (p / w)^(1/α) elementwise, p the
preference. α = 1 is Nash-MTL; α → 0 tends to the plain sum, α → ∞ to max-min.
"""

import numpy as np

from train.balancing.common_progress import stationary
from train.balancing.mgda import mgda
from train.balancing.nash import bargain, fair_point
from train.balancing.problem import Problem
from train.balancing.projection import semidefinite


def fairgrad(problem: Problem, alpha: float = 2.0) -> np.ndarray:
    """w with ⟨g_k, d⟩ ∝ (preference_k / w_k)^(1/alpha), scaled to Σ w = 1.

    Where 0 is in the hull of the gradients, the weights of 0. Exact for alpha from 0.5 to 20, which is what the options
    allow; far outside, with norms many powers of ten apart, the iteration may end before the point is fair.

    Returns:
        w > 0, float64 (A,), Σ w = 1.
    """
    cosines = semidefinite(problem.cosines)
    if stationary(cosines):
        return mgda(problem)
    beta, s = bargain(cosines, problem.preference)
    power = 1.0 / alpha
    if power != 1.0:
        # In β = w·norm: C β = p^power · norm^(power − 1) · β^(−power). Its length is free: that of the start is near.
        target = power * np.log(problem.preference) + (power - 1.0) * np.log(problem.norms / problem.norms.min())
        target += (np.log(s) + power * np.log(beta) - target).mean()
        beta, _ = fair_point(cosines, target, power, (beta, s))
    weights = beta * (problem.norms.min() / problem.norms)
    return weights / weights.sum()
