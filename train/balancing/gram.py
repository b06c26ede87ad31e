"""The Gram matrix of the objectives at the level that is asked for, and its moving average."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from equipoise.configs.balancing import BalancingConfig, Layers
from equipoise.modeling.boundary import BoundaryGradients, gram_matrix
from equipoise.train.world import World


class MovingGram:
    """Σ_t (1 − m) m^(T−t) G_t, divided by the sum of its factors; an entry that is not finite leaves the old one."""

    def __init__(self, count: int, momentum: float) -> None:
        self.momentum = momentum
        self._sum = np.zeros((count, count))
        self._mass = np.zeros((count, count))

    def update(self, gram: np.ndarray) -> np.ndarray:
        """Take in one (K, K) matrix and return the average; NaN where nothing finite has been seen yet."""
        finite = np.isfinite(gram)
        keep = np.where(finite, self.momentum, 1.0)
        self._sum = keep * self._sum + (1 - keep) * np.where(finite, gram, 0.0)
        self._mass = keep * self._mass + (1 - keep)
        with np.errstate(invalid="ignore", divide="ignore"):
            return self._sum / self._mass

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"sum": self._sum.tolist(), "mass": self._mass.tolist()}

    def restore(self, state: dict[str, Any]) -> None:
        """From the checkpoint."""
        self._sum, self._mass = np.array(state["sum"]), np.array(state["mass"])


def nearest_gram(matrix: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The nearest positive semi-definite matrix in the metric that divides row and column k by sizes_k.

    Without that metric the longest gradient's noise would decide about the angles of all others.

    Args:
        matrix: (K, K), symmetric; rows that are not finite stay as they are.
        sizes: (K,) lengths of the gradients, ≥ 0; rows of size 0 become 0.
    """
    result = np.array(matrix, dtype=np.float64)
    rows = np.flatnonzero(np.isfinite(np.diag(result)) & np.isfinite(sizes))
    held = rows[sizes[rows] > 0]
    result[np.ix_(rows, rows)] = 0.0
    scale = np.outer(sizes[held], sizes[held])
    part = np.nan_to_num(matrix[np.ix_(held, held)] / scale)
    values, vectors = np.linalg.eigh((part + part.T) / 2)
    result[np.ix_(held, held)] = (vectors * np.maximum(values, 0.0)) @ vectors.T * scale
    return result


TrunkLayers = Sequence[Sequence[nn.Parameter]]
"""The shared adapter's parameters, layer by layer, from the first to the last of the trunk."""


class GramReader:
    """From one process's gradients to the global Gram matrix, float64 (K, K), the same on all processes.

    Args:
        config: level and whether the processes' noise is taken out.
        trunk: the shared parameters of each trunk layer; may be empty at level `boundary`.
        world: the processes of the job.
        scale: by how much this process's gradients exceed those of the mean loss (processes / accumulation steps).
    """

    def __init__(self, config: BalancingConfig, trunk: TrunkLayers, world: World, scale: float) -> None:
        self.config, self.world, self.scale = config, world, scale
        self.trunk = [list(layer) for layer in trunk]
        level = config.level
        count = min(level.layers, len(trunk)) if isinstance(level, Layers) else len(trunk)
        self.compared = self.trunk[len(self.trunk) - count :]

    def gram(self, gradients: BoundaryGradients) -> np.ndarray:
        """The matrix that the weights come from. Rows of an objective that is not finite somewhere are not finite."""
        if self.config.level == "boundary":
            # Every process holds other rows of the same z, so the sum of the local matrices is exact.
            total = self.world.sum(gradients.gram())
            return total.cpu().numpy() / self.scale**2
        local = gradients.gradients([p for layer in self.compared for p in layer])
        summed = gram_matrix(self.world.sum(local)).cpu().numpy() / self.scale**2
        if not self.config.unbiased:
            return summed
        return self._without_noise(summed, self.world.sum(gram_matrix(local)).cpu().numpy() / self.scale**2)

    def _without_noise(self, total: np.ndarray, own: np.ndarray) -> np.ndarray:
        """(W²·Gram(mean) − Σ_r Gram_r) / (W(W − 1)): only products of gradients of different processes, then made PSD.

        `total` is Gram(mean), `own` is Σ_r Gram_r / W², r's gradient scaled so that their mean is the global one.
        """
        size = self.world.size
        with np.errstate(invalid="ignore"):
            return nearest_gram((total - own) * size / (size - 1), np.sqrt(np.diag(total)))

    def by_layer(self, gradients: BoundaryGradients) -> list[np.ndarray]:
        """The Gram matrix of the shared parameters of each trunk layer, for the log."""
        sizes = [sum(p.numel() for p in layer) for layer in self.trunk]
        total = self.world.sum(gradients.gradients([p for layer in self.trunk for p in layer]))
        return [gram_matrix(part).cpu().numpy() / self.scale**2 for part in total.split(sizes, dim=1)]

    def finite(self, gradients: BoundaryGradients) -> np.ndarray:
        """Whether each objective's gradients are finite on all processes, bool (K,)."""
        return np.isfinite(self.world.sum(gradients.squares()).cpu().numpy())
