"""Smooth Tchebycheff scalarisation (Lin et al. 2024, "Smooth Tchebycheff Scalarization for Multi-Objective
Optimization", equations 9 and 10).

α is the gradient of μ log Σ exp(λ_k (f_k − z_k*)/μ), a smooth maximum: at its minimum the weighted losses are about
equal, so every point of the front can be reached, also where it is not convex. λ is the preference divided by its sum,
z* the lower bounds of the losses, which `Problem.losses` are already above. The losses' scale matters: it is the
preference's task to make them comparable.
"""

import numpy as np

from equipoise.train.balancing.problem import Problem


def stch(problem: Problem, mu: float) -> np.ndarray:
    """α_k = λ_k softmax_k(λ (f − z*)/μ).

    Args:
        problem: reads preference and losses alone.
        mu: μ > 0; 0 would be the worst loss alone.

    Returns:
        α ≥ 0, float64 (A,), Σ α/λ = 1.
    """
    weight = problem.preference / problem.preference.sum()
    height = weight * problem.losses
    shares = np.exp((height - height.max()) / mu)
    return weight * shares / shares.sum()
