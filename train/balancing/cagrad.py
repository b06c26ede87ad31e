"""CAGrad: within a ball around the mean gradient, the direction that helps the worst-off objective most.

Liu et al. 2021, "Conflict-Averse Gradient Descent for Multi-task Learning", equation 4. Solved exactly, as the largest
common progress whose nearest point lies within the ball. The weights are those of d itself: the published code divides
by 1 + c² or 1 + c, which a learning rate does too.
"""

import numpy as np

from equipoise.train.balancing.common_progress import raise_progress, stationary
from equipoise.train.balancing.problem import Problem
from equipoise.train.balancing.projection import project, semidefinite


def cagrad(problem: Problem, c: float = 0.4) -> np.ndarray:
    """α of argmax_d min_k ⟨g_k, d⟩ / p_k subject to ‖d − g0‖ ≤ c‖g0‖, g0 = Σ p_k g_k / Σ p_k, p the preference.

    Where 0 is in the hull of the gradients, many d have the least progress 0, and the one nearest to g0 is taken if the
    ball reaches it.

    Returns:
        α ≥ preference / Σ preference, float64 (A,).
    """
    mean = problem.preference / problem.preference.sum()
    unit = problem.norms.max()
    target = mean * (problem.norms / unit)
    rates = problem.preference * (problem.norms.min() / problem.norms)
    cosines = semidefinite(problem.cosines)
    radius = c * max(float(target @ cosines @ target), 0.0) ** 0.5
    if radius == 0.0:
        return mean

    def to_the_sphere(v: np.ndarray, slope: np.ndarray) -> float:
        missing, grows, bends = radius**2 - v @ cosines @ v, slope @ cosines @ v, slope @ cosines @ slope
        root = grows**2 + missing * bends
        return float(missing / (grows + root**0.5)) if root >= 0.0 else -np.inf

    highest = np.inf
    if stationary(cosines):
        highest = 0.0
        v = project(cosines, target, np.zeros(len(target)))
        assert v is not None  # 0 keeps all bounds
        if v @ cosines @ v <= radius**2:
            return mean + v * (unit / problem.norms)
    return mean + raise_progress(cosines, target, rates, to_the_sphere, highest) * (unit / problem.norms)
