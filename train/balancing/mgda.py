"""MGDA: the min-norm point of the convex hull of the gradients (Désidéri 2012; Sener & Koltun 2018).

Solved exactly, as non-negative least squares on cosines, so that norms many powers of ten apart do no harm and
opposed, duplicate or dependent gradients need no special case.
"""

import numpy as np

from train.balancing.problem import Problem

TOLERANCE = 1e-13
"""On cosines, hence free of scale: a gradient joins the point only where that shortens it by more than rounding."""


def _factor(cosines: np.ndarray) -> np.ndarray:
    """R with RᵀR = cosines; directions that are no more than rounding, or negative by it, are left out."""
    values, vectors = np.linalg.eigh(cosines)
    values = np.where(values > 1e-15 * len(values), values, 0.0)
    return (vectors * np.sqrt(values)).T


def _nonnegative_least_squares(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """argmin ‖matrix u − right‖² over u ≥ 0 (Lawson & Hanson 1974, chapter 23)."""
    count = matrix.shape[1]
    u = np.zeros(count)
    support: list[int] = []
    distance = np.inf
    for _ in range(30 * count):
        rest = right - matrix @ u
        if not rest @ rest < distance:  # the last change brought nothing but rounding
            break
        distance = float(rest @ rest)
        pull = matrix.T @ rest
        pull[support] = -np.inf
        entering = int(np.argmax(pull))
        if not pull[entering] > TOLERANCE * max(1.0, u.max()):
            break
        support.append(entering)
        while support:
            target = np.linalg.lstsq(matrix[:, support], right)[0]
            current = u[support]
            if (target > 0).all():
                u[support] = target
                break
            falling = target <= 0
            steps = np.full(len(support), np.inf)
            steps[falling] = current[falling] / np.maximum(current[falling] - target[falling], 1e-300)
            leaving = int(np.argmin(steps))
            u[support] = np.maximum(current + steps[leaving] * (target - current), 0.0)
            u[support.pop(leaving)] = 0.0
    return u


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
    u = _nonnegative_least_squares(np.vstack([_factor(problem.cosines), c]), right)
    alpha = u * (problem.norms.min() / problem.norms)
    return alpha / alpha.sum()
