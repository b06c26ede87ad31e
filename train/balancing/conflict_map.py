"""Which products and shoppers objectives disagree about: the Gram matrix of every candidate, summed by group.

The gradients at a candidate's tokens are what each objective wants of the trunk for it alone. Their products are added
up over the run by the candidates' groups; a candidate is the unit whose products are taken for independent.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from equipoise.modeling.boundary import BoundaryGradients
from equipoise.train.balancing.conflict_rows import rows_of, write_rows
from equipoise.train.world import World


class ConflictMap:
    """Sums over candidates by group; each process keeps its own, which are added up when somebody reads them.

    Args:
        names: the objectives, K.
        values: column → the value of each of its G groups.
        world: the processes of the job.
    """

    def __init__(self, names: Sequence[str], values: Mapping[str, Sequence[str]], world: World) -> None:
        self.names, self.world = tuple(names), world
        self.values = {column: list(each) for column, each in values.items()}
        # By column (3, G, K, K): candidates whose products are finite, sums of the products and of their squares.
        self._sums: dict[str, torch.Tensor] = {}

    def add(self, gradients: BoundaryGradients, groups: Mapping[str, torch.Tensor]) -> None:
        """Take in one backward.

        Args:
            gradients: that arrived at the boundary.
            groups: column → the group of each candidate of this process, int64 (N,).
        """
        columns = {name: codes for name, codes in groups.items() if name in self.values}
        if not columns:
            return
        grams_NKK = gradients.of_candidates(len(next(iter(columns.values()))))
        known_NKK = torch.isfinite(grams_NKK)
        grams_NKK = torch.where(known_NKK, grams_NKK, 0.0)
        moments = torch.stack([known_NKK.double(), grams_NKK, grams_NKK**2])
        for name, codes in columns.items():
            self._sums[name] = self._held(name).to(moments.device).index_add_(1, codes, moments)

    def sums(self) -> dict[str, np.ndarray]:
        """By column counts, sums and sums of squares over all processes, float64 (3, G, K, K); all call it."""
        return {name: self.world.sum(self._held(name)).cpu().numpy() for name in self.values}

    def _held(self, name: str) -> torch.Tensor:
        shape = (3, len(self.values[name]), len(self.names), len(self.names))
        return self._sums[name] if name in self._sums else torch.zeros(shape, dtype=torch.float64)

    def state(self) -> dict[str, Any]:
        """For the checkpoint: the sums of all processes, and the groups that they are of; all call it."""
        return {name: {"values": self.values[name], "sums": each.tolist()} for name, each in self.sums().items()}

    def restore(self, state: dict[str, Any]) -> None:
        """From the checkpoint; the first process holds what all have seen. Columns that it lacks begin anew."""
        for name, held in state.items():
            if self.world.rank == 0 and held["values"] == self.values.get(name):
                self._sums[name] = torch.tensor(held["sums"], dtype=torch.float64)

    def write(self, run: Path) -> None:
        """Write `conflicts.json` into a run folder; all processes call it."""
        sums = self.sums()
        if self.world.rank == 0:
            write_rows(run, [row for name in sums for row in rows_of(self.names, name, self.values[name], sums[name])])
