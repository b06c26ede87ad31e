"""The `solve` that training hands to the boundary: all-reduce the Gram matrix, weigh on rank 0, broadcast.

On the wire per backward: K² numbers summed, K numbers broadcast.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from configs.schema import BalancingConfig
from train.averages import Averages
from train.balancing.conditioning import Conditioned, condition
from train.balancing.mgda import mgda
from train.balancing.pcgrad import pcgrad
from train.balancing.weighted import weighted
from train.world import World


def weigh(conditioned: Conditioned, method: str, step: int, count: int) -> np.ndarray:
    """Weights on the raw gradients, float64 (count,); 0 for those left out."""
    weights = np.zeros(count)
    if len(conditioned.active):
        methods: dict[str, Callable[[], np.ndarray]] = {
            "weighted": lambda: weighted(conditioned.cosines, conditioned.norms),
            "mgda": lambda: mgda(conditioned.cosines, conditioned.norms),
            "pcgrad": lambda: pcgrad(conditioned.cosines, conditioned.norms, seed=step),
        }
        weights[conditioned.active] = methods[method]() * conditioned.scales
    return weights


class Balancer:
    """Weighs the objectives' gradients in every backward and remembers what it saw, for the log.

    Args:
        names: the objectives, in the order of the towers.
        preference: one positive weight each.
        config: method and normalisation.
        world: the processes of the job.
        scale: by how much this process's cotangents exceed those of the mean loss (processes / accumulation steps).
    """

    def __init__(
        self, names: Sequence[str], preference: Sequence[float], config: BalancingConfig, world: World, scale: float
    ) -> None:
        self.names = tuple(names)
        self.preference = np.asarray(preference, dtype=np.float64)
        self.config, self.world, self.scale = config, world, scale
        self.losses = np.ones(len(self.names))
        self.step = 0
        self.solves = 0
        self.averages = Averages()

    def solve(self, gram: torch.Tensor) -> torch.Tensor:
        """From this process's Gram matrix to the weights, bit-equal on all processes; see `modeling.boundary.Solve`."""
        total = self.world.sum(gram) / self.scale**2
        weights = torch.zeros(len(self.names), dtype=torch.float64, device=gram.device)
        matrix = total.cpu().numpy()
        conditioned = condition(matrix, self.preference, str(self.config.normalize), self.losses)
        if self.world.rank == 0:
            weights.copy_(torch.from_numpy(self._weigh(conditioned)))
        self.world.broadcast(weights)
        if not torch.isfinite(weights).all():
            raise ArithmeticError(f"{self.config.method} found no weights for the Gram matrix {matrix.tolist()}")
        self._remember(matrix, conditioned, weights.cpu().numpy())
        self.solves += 1
        return weights

    def _weigh(self, conditioned: Conditioned) -> np.ndarray:
        try:
            return weigh(conditioned, self.config.method, self.step, len(self.names))
        except np.linalg.LinAlgError:
            return np.full(len(self.names), np.nan)  # broadcast, so that no process waits for one that failed

    def _remember(self, matrix: np.ndarray, conditioned: Conditioned, weights: np.ndarray) -> None:
        for k, name in enumerate(self.names):
            self.averages.add(f"balance/weight/{name}", float(weights[k]))
            self.averages.add(f"balance/preference/{name}", float(self.preference[k]))
            if np.isfinite(matrix[k, k]):
                self.averages.add(f"balance/norm/{name}", float(np.sqrt(max(matrix[k, k], 0.0))))
            self.averages.add(f"balance/zero/{name}", float(k in conditioned.zero))
            self.averages.add(f"balance/nonfinite/{name}", float(k in conditioned.nonfinite))
        for k, scale in zip(conditioned.active, conditioned.scales, strict=True):
            self.averages.add(f"balance/scale/{self.names[k]}", float(scale))
        conflicts, pairs = 0, 0
        for a, i in enumerate(conditioned.active):
            for b in range(a):
                cosine = float(conditioned.cosines[a, b])
                self.averages.add(f"balance/cosine/{self.names[conditioned.active[b]]}-{self.names[i]}", cosine)
                conflicts += cosine < 0
                pairs += 1
        if pairs:
            self.averages.add("balance/conflict_rate", conflicts / pairs)

    def drain(self) -> dict[str, float]:
        """Means of what was seen since the last call, by metric name."""
        return self.averages.drain()
