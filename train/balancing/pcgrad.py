"""PCGrad: each gradient loses what conflicts with the others, one after another (Yu et al. 2020, algorithm 1).

Projections are linear in the gradients, so the Gram matrix is enough. The original draws a random order per gradient;
here the average over all orders is taken up to K = 5, and above that orders drawn from the step's seed.
"""

from itertools import permutations

import numpy as np

from equipoise.train.balancing.problem import Problem

ALL_ORDERS_UP_TO = 5
SAMPLED_ORDERS = 24


def orders_of_others(count: int, seed: int) -> np.ndarray:
    """Orders in which each of `count` gradients meets the others, int (count, orders, count − 1)."""
    if count <= ALL_ORDERS_UP_TO:
        places = np.array(list(permutations(range(count - 1))))
    else:
        rng = np.random.default_rng(seed)
        places = rng.permuted(np.tile(np.arange(count - 1), (SAMPLED_ORDERS, 1)), axis=1)
    return np.stack([places + (places >= i) for i in range(count)])


def pcgrad(problem: Problem) -> np.ndarray:
    """α of Σ_i g_i^PC = Σ_k α_k g_k, averaged over the orders of projection; the preference scales the gradients.

    Returns:
        α, float64 (A,); the preference where nothing conflicts.
    """
    count = len(problem.names)
    orders = orders_of_others(count, problem.step)
    # Row (i, o) holds g_i^PC after its projections in order o, in units of the unit gradients.
    u = np.zeros((*orders.shape[:2], count))
    sizes = problem.preference * problem.norms
    u[np.arange(count), :, np.arange(count)] = sizes[:, None]
    for place in range(count - 1):
        other = orders[:, :, place]
        along = np.einsum("iok,iok->io", problem.cosines[other], u)
        np.put_along_axis(
            u, other[..., None], np.take_along_axis(u, other[..., None], 2) - np.minimum(along, 0.0)[..., None], 2
        )
    return u.mean(1).sum(0) / problem.norms
