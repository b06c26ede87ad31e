"""Towers one after another: each is differentiated as soon as its loss is known, and its activations are freed.

The losses of different objectives share no gradient above the boundary, and every one of them enters the total with a
scalar factor. So the gradient of a tower can be taken inside the forward, up to that factor; the one backward of the
engine then only scales, balances and hands on. At any time the activations of one tower are alive instead of all K.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from equipoise.modeling.boundary import Gradients, StepContext

Criterion = Callable[[str, Mapping[str, torch.Tensor]], torch.Tensor]
"""From an objective's name and the outputs so far (its own with gradient, earlier ones without) to its scalar loss."""


class _PrecomputedGradients(torch.autograd.Function):
    """K losses whose gradients are known: backward scales them, balances those at z, and hands on all the others."""

    @staticmethod
    def forward(
        ctx: Any, towers: "Towers", losses_K: torch.Tensor, z: torch.Tensor, *parameters: torch.Tensor
    ) -> torch.Tensor:
        ctx.towers = towers
        ctx.save_for_backward(z)
        return losses_K.clone()

    @staticmethod
    def backward(ctx: Any, factors_K: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (z,) = ctx.saved_tensors
        boundary, parameters = ctx.towers.take_gradients(factors_K)
        return None, None, ctx.towers.step.balance(z, boundary, ctx.towers.names), *parameters


class Towers:
    """The towers of one forward.

    Args:
        names: the objectives, in order.
        step: of the forward.
    """

    def __init__(self, names: Sequence[str], step: StepContext) -> None:
        self.names, self.step = tuple(names), step
        self._losses: list[torch.Tensor] = []
        self._parameters: list[torch.Tensor] = []
        self._gradients: list[list[torch.Tensor]] = []
        self._at_boundary: list[torch.Tensor] = []  # each of one tower or of several that ran as one batch

    def __len__(self) -> int:
        """Towers that have been differentiated, or judged where gradients are switched off."""
        return len(self._losses)

    def add(self, loss: torch.Tensor, view: torch.Tensor, parameters: Sequence[torch.Tensor]) -> None:
        """Differentiate the next tower with respect to its view of z and its own parameters; its graph is freed.

        Where gradients are switched off, its loss is kept and nothing else.
        """
        self._losses.append(loss.detach())
        if not view.requires_grad:
            return
        with torch.autocast(loss.device.type, enabled=False):
            gradients = torch.autograd.grad(loss, [view, *parameters], allow_unused=True, materialize_grads=True)
        self._parameters.extend(parameters)
        self._at_boundary.append(gradients[0][None])
        self._gradients.append(list(gradients[1:]))

    def add_together(
        self,
        losses: Sequence[torch.Tensor],
        views_K: torch.Tensor,
        parameters: Sequence[Sequence[torch.Tensor]],
    ) -> None:
        """Differentiate several towers that ran as one batch, each with respect to its own view and parameters.

        Args:
            losses: of the towers.
            views_K: their views of z, one after another along the first dimension.
            parameters: of each.
        """
        self._losses.extend(loss.detach() for loss in losses)
        if not views_K.requires_grad:
            return
        flat = [tensor for each in parameters for tensor in each]
        with torch.autocast(losses[0].device.type, enabled=False):
            total = torch.stack([loss.to(losses[0].dtype) for loss in losses]).sum()
            at_boundary, *own = torch.autograd.grad(total, [views_K, *flat], allow_unused=True, materialize_grads=True)
        self._parameters.extend(flat)
        self._at_boundary.append(at_boundary)
        gradients = iter(own)
        self._gradients.extend([next(gradients) for _ in each] for each in parameters)

    def losses(self, z: torch.Tensor) -> torch.Tensor:
        """The losses (K,); one backward through them reaches z and every tower's parameters."""
        return _PrecomputedGradients.apply(self, torch.stack(self._losses), z, *self._parameters)

    def take_gradients(self, factors_K: torch.Tensor) -> tuple[Gradients, list[torch.Tensor]]:
        """The gradients at z and of all parameters, times the factors of their losses; zeros for blocked objectives."""
        assert self._gradients, "one backward per forward: the gradients have been handed on already"
        at_z, self._at_boundary = self._at_boundary, []
        boundary: list[torch.Tensor] = []
        for part, factors in zip(at_z, factors_K.split([len(part) for part in at_z]), strict=True):
            boundary.append(part * factors.to(part.dtype).view(-1, *[1] * (part.dim() - 1)))
        rows = [row for part in boundary for row in part.unbind()]
        parameters: list[torch.Tensor] = []
        for name, factor, row in zip(self.names, factors_K, rows, strict=True):
            gradients = self._gradients.pop(0)
            if name in self.step.guard.blocked:
                row.zero_()
                parameters.extend(torch.zeros_like(g) for g in gradients)
            elif gradients:
                parameters.extend(torch._foreach_mul(gradients, factor.to(gradients[0].dtype)))
        return boundary[0] if len(boundary) == 1 else tuple(rows), parameters
