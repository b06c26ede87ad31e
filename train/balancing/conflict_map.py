"""Which products and shoppers objectives disagree about: products of gradients of every candidate, summed by group.

At the outputs the gradient says whether an objective wants this candidate's number up or down; at the boundary, at the
candidate's tokens, what it wants of the trunk for it. Products are added up over the run by the candidates' groups; a
candidate is the unit whose products are taken for independent.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from equipoise.modeling.boundary import BoundaryGradients, StepContext
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
        self._sums: dict[str, torch.Tensor] = {}

    def add(self, gradients: BoundaryGradients, context: StepContext) -> None:
        """Take in one backward.

        Args:
            gradients: that arrived at the boundary.
            context: of the step, with the group of each candidate of this process.
        """
        columns = {name: codes for name, codes in context.groups.items() if name in self.values}
        if not columns:
            return
        count = len(next(iter(columns.values())))
        unknown_N = gradients.values[0].new_full((count,), torch.nan)
        wanted_NK = torch.stack([context.guard.wanted.get(name, unknown_N) for name in self.names], 1).double()
        at_outputs = wanted_NK[:, :, None] * wanted_NK[:, None, :]
        moments = torch.stack([_moments(at_outputs), _moments(gradients.of_candidates(count))])
        for name, codes in columns.items():
            self._sums[name] = self._held(name).to(moments.device).index_add_(2, codes, moments)

    def sums(self) -> dict[str, np.ndarray]:
        """By column what `rows_of` reads, over all processes, float64 (2, 3, G, K, K); all call it."""
        return {name: self.world.sum(self._held(name)).cpu().numpy() for name in self.values}

    def _held(self, name: str) -> torch.Tensor:
        shape = (2, 3, len(self.values[name]), len(self.names), len(self.names))
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


def _moments(products_NKK: torch.Tensor) -> torch.Tensor:
    """Of each candidate whether its products are finite, the products and their squares, (3, N, K, K)."""
    known = torch.isfinite(products_NKK)
    products = torch.where(known, products_NKK, 0.0)
    return torch.stack([known.double(), products, products**2])
