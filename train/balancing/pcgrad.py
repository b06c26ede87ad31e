"""PCGrad: each gradient loses what conflicts with the others, one after another (Yu et al. 2020, algorithm 1).

Projections are linear in the gradients, so the Gram matrix is enough. The original draws a random order per gradient;
here the average over all orders is taken up to K = 5, and above that orders drawn from a seed.
"""

from itertools import permutations

import numpy as np

ALL_ORDERS_UP_TO = 5
SAMPLED_ORDERS = 24


def _orders(others: list[int], seed: int) -> list[tuple[int, ...]]:
    if len(others) < ALL_ORDERS_UP_TO:
        return list(permutations(others))
    rng = np.random.default_rng(seed)
    return [tuple(int(j) for j in rng.permutation(others)) for _ in range(SAMPLED_ORDERS)]


def pcgrad(cosines: np.ndarray, norms: np.ndarray, seed: int = 0) -> np.ndarray:
    """α of Σ_i g_i^PC = Σ_k α_k g_k, averaged over the orders of projection.

    Args:
        cosines: (K, K), unit diagonal. norms: (K,), positive. seed: of the sampled orders, where K > 5.

    Returns:
        α, float64 (K,); all ones where nothing conflicts.
    """
    count = len(norms)
    total = np.zeros(count)
    for i in range(count):
        orders = _orders([j for j in range(count) if j != i], seed * count + i)
        of_i = np.zeros(count)
        for order in orders:
            u = np.zeros(count)  # g_i^PC in units of the normed gradients
            u[i] = norms[i]
            for j in order:
                along = cosines[j] @ u
                if along < 0:
                    u[j] -= along
            of_i += u / norms
        total += of_i / len(orders)
    return total
