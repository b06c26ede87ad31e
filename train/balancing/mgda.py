"""MGDA: the min-norm point of the convex hull of the gradients (Désidéri 2012; Sener & Koltun 2018).

Solved by Wolfe's active-set method (1976) in cosines, so that norms many powers of ten apart do no harm.
"""

import numpy as np

TOLERANCE = 1e-12
"""On cosines, hence free of scale."""


def _on_face(cosines: np.ndarray, inverse_norms: np.ndarray, support: list[int]) -> np.ndarray:
    """The min-norm point of the affine hull of the gradients in `support`, in units of u = α·norm."""
    size = len(support)
    system = np.zeros((size + 1, size + 1))
    system[:size, :size] = cosines[np.ix_(support, support)]
    system[:size, size] = -inverse_norms[support]
    system[size, :size] = inverse_norms[support]
    right = np.zeros(size + 1)
    right[size] = 1.0
    return np.linalg.lstsq(system, right, rcond=1e-14)[0][:size]


def mgda(cosines: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """argmin_α ‖Σ α_k g_k‖² over the simplex (α ≥ 0, Σ α = 1).

    Args:
        cosines: (K, K), unit diagonal. norms: (K,), positive.

    Returns:
        α, float64 (K,).
    """
    # With u = α·norm the problem is min uᵀCu over u ≥ 0, cᵀu = 1, c = 1/norm: only c knows the scale.
    c = norms.min() / norms
    support = [int(np.argmax(c))]  # the shortest gradient
    u = np.zeros(len(norms))
    u[support] = 1.0 / c[support]
    for _ in range(100 * len(norms)):
        size = u @ cosines @ u
        slack = cosines @ u - size * c
        slack[support] = np.inf
        entering = int(np.argmin(slack))
        if not slack[entering] < -TOLERANCE * max(u.max(), 1e-300):
            break
        support.append(entering)
        while True:
            target = _on_face(cosines, c, support)
            current = u[support]
            if (target > 0).all():
                u[support] = target
                break
            falling = target <= 0
            step = np.min(current[falling] / np.maximum(current[falling] - target[falling], 1e-300))
            moved = current + min(step, 1.0) * (target - current)
            leaving = int(np.argmin(np.where(falling, moved, np.inf)))
            moved[leaving] = 0.0
            u[support] = np.maximum(moved, 0.0)
            del support[leaving]
    alpha = u * c
    return alpha / alpha.sum()
