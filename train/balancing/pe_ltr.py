"""PE-LTR: the min-norm point among weights that leave every objective its floor.

Lin et al. 2019, "A Pareto-Efficient Algorithm for Multiple Objective Optimization in E-Commerce Recommendation". Theirs
drops ω ≥ 0, solves a linear system and then looks for the nearest feasible point; here the problem itself is solved.
"""

from dataclasses import replace

import numpy as np

from equipoise.train.balancing.common_progress import raise_progress, stationary
from equipoise.train.balancing.mgda import mgda
from equipoise.train.balancing.problem import Problem
from equipoise.train.balancing.projection import semidefinite


def pe_ltr(problem: Problem, floor: float = 0.4) -> np.ndarray:
    """ω of min ‖Σ ω_k g_k‖² subject to Σ ω = 1, ω_k ≥ floor · preference_k / Σ preference.

    Floor 0 is MGDA with equal preference, floor 1 the fixed weights.

    Returns:
        ω, float64 (A,), Σ ω = 1.
    """
    least = floor * problem.preference / problem.preference.sum()
    equal = replace(problem, preference=np.ones(len(least)))
    if floor in (0.0, 1.0):
        return least if floor else mgda(equal)
    unit = problem.norms.max()
    rates = problem.norms.min() / problem.norms
    target = least * (problem.norms / unit)
    cosines = semidefinite(problem.cosines)
    # What is left to deal out, in the units of rates @ v: the optimum is where ⟨g_k, d⟩ is least wherever ω is raised.
    left = (1.0 - floor) * (problem.norms.min() / unit)

    def to_the_sum(v: np.ndarray, slope: np.ndarray) -> float:
        return float((left - rates @ v) / (rates @ slope))

    highest = 0.0 if stationary(cosines) else np.inf
    raised = raise_progress(cosines, target, rates, to_the_sum, highest) * (rates / left)
    missing = 1.0 - raised.sum()
    if highest == 0.0 and missing > 1e-7:  # weights of a sum that is 0 cost nothing, where no progress is left to buy
        raised += missing * mgda(equal)
    else:  # what rounding has lost of the sum goes to the shortest gradient, whose weight moves the point least
        shortest = int(np.argmax(np.where(raised > 0, rates, 0.0)))
        raised[shortest] = max(raised[shortest] + missing, 0.0)
    return least + (1.0 - floor) * raised / raised.sum()
