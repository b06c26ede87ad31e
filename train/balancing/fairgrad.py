"""FairGrad: the step that is α-fair in the progress of the objectives.

Ban & Ji 2024, "Fair Resource Allocation in Multi-Task Learning", equation 4: G w = (p / w)^(1/α) elementwise, p the
preference. α = 1 is Nash-MTL; α → 0 tends to the plain sum, α → ∞ to max-min.
"""

import numpy as np
from scipy.linalg.lapack import dposv

from equipoise.train.balancing.common_progress import stationary
from equipoise.train.balancing.mgda import mgda
from equipoise.train.balancing.problem import Problem
from equipoise.train.balancing.projection import semidefinite

Pair = tuple[np.ndarray, np.ndarray]


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


def bargain(cosines: np.ndarray, power: np.ndarray) -> Pair:
    """β > 0 with C β = power / β (Nash's point), and C β; from there `fair_point` finds the other fair points."""
    start = np.sqrt(power)
    return fair_point(cosines, np.log(power), 1.0, (start, start))


def fair_point(cosines: np.ndarray, target: np.ndarray, exponent: float, start: Pair) -> Pair:
    """β, s > 0 with C β = s and log s + exponent · log β = target: the minimum of a strictly convex potential.

    Primal-dual Newton: s is a variable of its own, so that steps are only as short as keeps β and s positive.

    Args:
        cosines: (A, A), positive semi-definite, 0 not in the hull.
        target: (A,).
        exponent: > 0.
        start: β, s > 0, (A,) each; C β = s need not hold.
    """
    beta, s = start
    last = np.inf
    for _ in range(100):
        fairness = target - np.log(s) - exponent * np.log(beta)
        rest = s - cosines @ beta
        error = np.abs(fairness).max()
        exact = np.abs(rest).max() <= 1e-15 * len(s) * beta.max()
        if exact and (error < 1e-13 or (error < 1e-9 and error > last / 2)):  # no better: rounding
            break
        last = error
        bend = exponent * s / beta
        unit = 1.0 / np.sqrt(1.0 + bend)
        matrix = (cosines + np.diag(bend)) * np.outer(unit, unit)
        change = unit * dposv(matrix, unit * (s * fairness + rest))[1]
        change_s = s * fairness - bend * change
        step = 1.0 / max(1.0, (-change / beta).max() / 0.95, (-change_s / s).max() / 0.95)
        beta, s = beta + step * change, s + step * change_s
    return beta, s
