"""The processes of a job, as sums over all of them.

Convention: a local loss is scaled so that the *mean over processes* of the local losses is the loss of the global
batch, because engines average gradients. `World.scale_to_global_mean` does the scaling.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from equipoise.common.errors import UserError

T = TypeVar("T")


class _SumWithGradient(torch.autograd.Function):
    """All-reduced sum whose gradient assumes that every process computes the same loss from the sum."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, world: "World") -> torch.Tensor:
        ctx.size = world.size
        return world.sum(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        # All processes hold the same gradient, so their sum is size times mine: no second exchange is needed.
        return gradient * ctx.size, None


class World:
    """All processes of the job; a single one where none are initialised."""

    @property
    def size(self) -> int:
        """Number of processes."""
        return dist.get_world_size() if dist.is_initialized() else 1

    @property
    def rank(self) -> int:
        """This process, from 0."""
        return dist.get_rank() if dist.is_initialized() else 0

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        """The sum over processes, without gradient; x itself is left as it is."""
        if self.size == 1:
            return x.detach().clone()
        total = x.detach().clone()
        dist.all_reduce(total)
        return total

    def sum_with_gradient(self, x: torch.Tensor) -> torch.Tensor:
        """The sum over processes, differentiable, for losses that all processes compute alike from it."""
        return _SumWithGradient.apply(x, self)

    def scale_to_global_mean(self, local_sum: torch.Tensor, global_count: torch.Tensor | float) -> torch.Tensor:
        """This process's part of a global mean: the mean over processes of the result is global sum / global count."""
        return local_sum * self.size / global_count

    def broadcast(self, x: torch.Tensor) -> torch.Tensor:
        """Process 0's values, on every process."""
        if self.size > 1:
            dist.broadcast(x, src=0)
        return x

    def gather(self, value: Any) -> list[Any]:
        """Everybody's picklable value, in the order of ranks, on every process."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def from_first(self, find: Callable[[], T]) -> T:
        """What process 0 finds, on every process; so is its refusal.

        Raises:
            UserError: as `find` does.
        """
        found: T | None = None
        refusal = None
        if self.rank == 0:
            try:
                found = find()
            except UserError as error:
                refusal = str(error)
        found, refusal = self.gather((found, refusal))[0]
        if refusal is not None:
            raise UserError(refusal)
        return found

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier()
