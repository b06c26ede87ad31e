"""Bring a Gram matrix into the form that every method can trust: float64, finite, cosines and norms apart."""

from dataclasses import dataclass

import numpy as np

ALMOST_ZERO = 1e-10
"""A gradient this much shorter than the longest one, or a loss this much smaller than the largest, counts as zero."""


@dataclass(frozen=True)
class Conditioned:
    """The usable objectives of a Gram matrix.

    Attributes:
        active: int indices of the objectives in the solve.
        scales: float64 (A,), factors s_k > 0 that the normalisation puts on the gradients, g_k ← s_k g_k.
        cosines: float64 (A, A), unit diagonal.
        norms: float64 (A,), of the scaled gradients.
        zero, nonfinite: indices left out, and why.
    """

    active: np.ndarray
    scales: np.ndarray
    cosines: np.ndarray
    norms: np.ndarray
    zero: np.ndarray
    nonfinite: np.ndarray


def condition(gram: np.ndarray, normalize: str, losses: np.ndarray) -> Conditioned:
    """Leave out zero and non-finite gradients, apply the normalisation, and split off the cosines.

    Args:
        gram: (K, K) of the raw gradients.
        normalize: `none`; `l2`: every gradient gets the mean norm of the active ones;
            `loss`: every gradient is divided by its loss (in absolute value).
        losses: (K,), read by `loss` alone.
    """
    gram = np.asarray(gram, dtype=np.float64)
    squares = np.diag(gram)
    finite = np.isfinite(squares) & (squares >= 0)
    norms = np.sqrt(np.where(finite, squares, 0.0))
    longest = norms.max(initial=0.0)
    usable = finite & (norms > ALMOST_ZERO * longest)
    # Finite gradients can still meet in a non-finite product: leave out whichever does so most often, the later of two.
    while (broken := ~np.isfinite(gram) & np.outer(usable, usable)).any():
        worst = len(gram) - 1 - int(np.argmax((broken | broken.T).sum(1)[::-1]))
        usable[worst] = finite[worst] = False
    if normalize == "loss":
        finite &= np.isfinite(losses)
        sizes = np.where(np.isfinite(losses), np.abs(losses), 0.0)
        usable &= finite & (sizes > ALMOST_ZERO * sizes.max(initial=0.0))  # or its gradient would drown all others
    active = np.flatnonzero(usable)
    lengths = norms[active]
    scales = np.ones(len(active))
    if normalize == "l2" and len(active):
        scales = lengths.mean() / lengths
    elif normalize == "loss":
        scales = 1.0 / np.abs(losses[active])
    cosines = gram[np.ix_(active, active)] / lengths[:, None] / lengths[None, :]
    cosines = np.clip((cosines + cosines.T) / 2, -1.0, 1.0)
    np.fill_diagonal(cosines, 1.0)
    left_out = np.setdiff1d(np.arange(len(gram)), active)
    return Conditioned(
        active, scales, cosines, lengths * scales, left_out[finite[left_out]], left_out[~finite[left_out]]
    )
