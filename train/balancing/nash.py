"""Nash-MTL: the objectives bargain for the step; the solution maximises the product of their progresses.

Navon et al. 2022, "Multi-Task Learning as a Bargaining Game", equation 3: G α = p / α elementwise, with the preference
p as bargaining power (the asymmetric solution, Kalai 1977). Norms cancel: β = α·norm solves C β = p / β on cosines.
"""

import numpy as np
from scipy.linalg.lapack import dposv

from train.balancing.common_progress import stationary
from train.balancing.mgda import mgda
from train.balancing.problem import Problem
from train.balancing.projection import semidefinite

Pair = tuple[np.ndarray, np.ndarray]


def nash(problem: Problem) -> np.ndarray:
    """α with α_k ⟨g_k, d⟩ ∝ preference_k.

    The solution's own length is one over that of the gradients and says nothing, so weights are scaled to Σ α = 1.
    Where 0 is in the hull of the gradients the solution grows without bound towards weights of 0: those are returned.

    Returns:
        α > 0, float64 (A,), Σ α = 1.
    """
    cosines = semidefinite(problem.cosines)
    if stationary(cosines):
        return mgda(problem)
    beta, _ = bargain(cosines, problem.preference)
    alpha = beta * (problem.norms.min() / problem.norms)
    return alpha / alpha.sum()


def bargain(cosines: np.ndarray, power: np.ndarray) -> Pair:
    """β > 0 with C β = power / β, and C β; from there `fair_point` finds the other points of fairness."""
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
