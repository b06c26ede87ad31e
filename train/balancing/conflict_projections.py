"""Weightings that take out of each gradient, or of their sum, what conflicts with the others."""

from itertools import permutations
from typing import Any

import numpy as np

from equipoise.configs.balancing import GradvacOptions
from equipoise.train.balancing.gradient_stats import GradientStats, Weighting
from equipoise.train.balancing.solvers import project, semidefinite

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


def pcgrad(stats: GradientStats) -> np.ndarray:
    """PCGrad: each gradient loses what conflicts with the others, one after another (Yu et al. 2020, algorithm 1).

    Projections are linear in the gradients, so the Gram matrix is enough. The original draws a random order per
    gradient; here the average over all orders is taken up to K = 5, and above that orders drawn from the step's seed.

    α of Σ_i g_i^PC = Σ_k α_k g_k, averaged over the orders of projection; the preference scales the gradients.

    Returns:
        α, float64 (A,); the preference where nothing conflicts.
    """
    count = len(stats.names)
    orders = orders_of_others(count, stats.step)
    # Row (i, o) holds g_i^PC after its projections in order o, in units of the unit gradients.
    u = np.zeros((*orders.shape[:2], count))
    sizes = stats.preference * stats.norms
    u[np.arange(count), :, np.arange(count)] = sizes[:, None]
    for step in range(count - 1):
        other = orders[:, :, step]
        along = np.einsum("iok,iok->io", stats.cosines[other], u)
        np.put_along_axis(
            u, other[..., None], np.take_along_axis(u, other[..., None], 2) - np.minimum(along, 0.0)[..., None], 2
        )
    return u.mean(1).sum(0) / stats.norms


CLOSEST = 0.999
"""Largest cosine that is aimed at: no more than 23 times g_i's length of g_j is added."""

VANISHED_LENGTH = 1e-7
"""A g_i' this much shorter than what it was summed from is rounding: it has no angle."""


class Gradvac(Weighting):
    """GradVac: pairs of gradients are turned to the angle that they had so far (Wang et al. 2021, algorithm 1).

    Where the cosine φ of g_i' (g_i as changed so far) and g_j is below its target φ̂_ij, equation 5 gives

        g_i' ← g_i' + g_j · ‖g_i'‖ (φ̂ √(1−φ²) − φ √(1−φ̂²)) / (‖g_j‖ √(1−φ̂²)),

    after which their cosine is φ̂; then φ̂_ij ← β φ̂_ij + (1−β) φ, with φ as it was seen, from φ̂ = 0 (so the first
    step is PCGrad's). All of it is linear in the gradients, so the Gram matrix is enough. The preference scales the
    gradients.

    Differences: the paper draws one random order per gradient and compares each parameter matrix by itself; here the
    mean over orders is taken as in `pcgrad`, of the changed gradients and of the cosines seen, on the gradients as a
    whole (two objectives have one order: that is the paper's algorithm to the letter). TorchJD draws one order and
    moves φ̂ the same way, LibMTL only where φ < φ̂. Neither bounds the step, though φ̂ → 1 asks for infinite multiples
    of g_j: here the cosine aimed at is at most `CLOSEST`.

    Keeps φ̂ by pair of names; each solve is one of the paper's steps.
    """

    def __init__(self, options: GradvacOptions) -> None:
        self._momentum = options.momentum
        self._target: dict[str, dict[str, float]] = {}

    def compute_weights(self, stats: GradientStats) -> np.ndarray:
        """α of Σ_i g_i', float64 (A,), averaged over the orders; the preference where nothing is changed."""
        names, count = stats.names, len(stats.names)
        target = np.array([[self._target.get(a, {}).get(b, 0.0) for b in names] for a in names])
        orders = orders_of_others(count, stats.step)
        # Row (i, o) holds g_i' after its changes in order o, in units of the unit gradients.
        u = np.zeros((*orders.shape[:2], count))
        u[np.arange(count), :, np.arange(count)] = (stats.preference * stats.norms)[:, None]
        cosine_sums, counts = np.zeros((count, count)), np.zeros((count, count))
        rows = np.arange(count)[:, None]
        for position in range(count - 1):
            other = orders[:, :, position]
            cosine, length = _angle(u, other, stats.cosines)
            np.add.at(cosine_sums, (rows, other), cosine)
            np.add.at(counts, (rows, other), length > 0)
            step = length * _vaccine(cosine, np.minimum(target[rows, other], CLOSEST))
            np.put_along_axis(u, other[..., None], np.take_along_axis(u, other[..., None], 2) + step[..., None], 2)
        self._remember(names, target, cosine_sums, counts)
        return u.mean(1).sum(0) / stats.norms

    def _remember(
        self, names: tuple[str, ...], target: np.ndarray, cosine_sums: np.ndarray, counts: np.ndarray
    ) -> None:
        moved = self._momentum * target + (1 - self._momentum) * cosine_sums / np.maximum(counts, 1)
        for i, j in np.argwhere(counts > 0).tolist():
            self._target.setdefault(names[i], {})[names[j]] = float(moved[i, j])

    def state(self) -> dict[str, Any]:
        """φ̂ by the two names."""
        return {"target": self._target}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._target = {name: dict(row) for name, row in state["target"].items()}


def _angle(u: np.ndarray, other: np.ndarray, cosines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosine of each u (A, O, A) with its unit gradient `other` (A, O), and u's length; 0 and 0 where u vanished."""
    inner = u @ cosines
    length = np.sqrt(np.maximum((inner * u).sum(2), 0.0))
    length = np.where(length > VANISHED_LENGTH * np.abs(u).max(2), length, 0.0)
    along = np.take_along_axis(inner, other[..., None], 2)[..., 0]
    return np.clip(along / np.where(length > 0, length, np.inf), -1.0, 1.0), length


def _vaccine(cosine: np.ndarray, target: np.ndarray) -> np.ndarray:
    """How much of a unit gradient brings a unit vector from `cosine` to `target` (equation 5); 0 where above."""
    sine, target_sine = np.sqrt(1 - cosine**2), np.sqrt(1 - target**2)
    return np.where(cosine < target, (target * sine - cosine * target_sine) / target_sine, 0.0)


def upgrad(stats: GradientStats) -> np.ndarray:
    """UPGrad: each gradient is projected onto the cone of directions that harm nobody, and the projections are added.

    Quinton & Rey 2024, "Jacobian Descent for Multi-Objective Optimization", section 3. Theirs is the mean; the sum is
    taken here, so that weights are the preference where nothing conflicts.

    α of Σ_i preference_i · (the point nearest to g_i with ⟨g_k, d⟩ ≥ 0 for all k).

    Returns:
        α ≥ preference, float64 (A,).
    """
    count = len(stats.norms)
    cosines = semidefinite(stats.cosines)
    sizes = stats.preference * stats.norms
    added = np.zeros(count)
    for i in range(count):  # each as a unit gradient, for the cone knows no lengths
        v = project(cosines, np.eye(count)[i], np.zeros(count))
        assert v is not None  # 0 keeps all bounds
        added += sizes[i] * v
    return stats.preference + added / stats.norms


def dualproj(stats: GradientStats) -> np.ndarray:
    """DualProj: the fixed combination, moved as little as needed to harm nobody.

    Lopez-Paz & Ranzato 2017, "Gradient Episodic Memory for Continual Learning", equation 11; the name is TorchJD's.

    α of the point nearest to Σ preference_i g_i with ⟨g_k, d⟩ ≥ 0 for all k.

    Returns:
        α ≥ preference, float64 (A,).
    """
    sizes = stats.preference * stats.norms
    v = project(semidefinite(stats.cosines), sizes, np.zeros(len(sizes)))
    assert v is not None  # 0 keeps all bounds
    return stats.preference + v / stats.norms
