"""Aligned-MTL: the principal components of the gradients are brought to one length, that of the shortest.

Senushkin et al. 2023, "Independent Component Alignment for Multi-Task Learning", algorithm 1. With norms 10^±4 the
eigenvalues of the Gram matrix spread over 10^16, more than `eigh` of it can see; one-sided Jacobi on a factor
(Demmel et al. 1999, LAPACK's dgejsv) finds the small ones as exactly as the large ones.
"""

import numpy as np
from scipy.linalg.lapack import dgejsv

from equipoise.train.balancing.problem import Problem
from equipoise.train.balancing.projection import RANK, factor


def aligned(problem: Problem) -> np.ndarray:
    """α = B·preference, B = √λ_min V Λ^(−1/2) Vᵀ over the non-zero spectrum V Λ Vᵀ of the Gram matrix.

    Which part of it is zero is decided on cosines.

    Returns:
        α, float64 (A,), of either sign; the preference for orthogonal gradients of one length.
    """
    root = factor(problem.cosines, RANK)
    root = root[root.any(axis=1)] * (problem.norms / problem.norms.max())
    # The job numbers say whether columns or rows are graded, and which side's singular vectors are wanted.
    if len(root) == root.shape[1]:
        singular, _, vectors, *_ = dgejsv(root, joba=0, jobu=3, jobv=0)
    else:
        singular, vectors, *_ = dgejsv(root.T, joba=2, jobu=0, jobv=3)
    vectors = vectors[:, : len(singular)]
    return vectors @ (vectors.T @ problem.preference * (singular.min() / singular))
