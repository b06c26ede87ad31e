"""Towers one after another: each is differentiated as soon as its loss is known, and its activations are freed.

The losses of different objectives share no gradient above the boundary, and every one of them enters the total with a
scalar factor. So the gradient of a tower can be taken inside the forward, up to that factor; the one backward of the
engine then only scales, balances and hands on. At any time the activations of one tower are alive instead of all K.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from equipoise.modeling.boundary import Boundary, Gates

Criterion = Callable[[str, Mapping[str, torch.Tensor]], torch.Tensor]
"""From an objective's name and the outputs so far (its own with gradient, earlier ones without) to its scalar loss."""


class _Known(torch.autograd.Function):
    """K losses whose gradients are known: backward scales them, balances those at z, and hands on all the others."""

    @staticmethod
    def forward(
        ctx: Any, towers: "Towers", losses_K: torch.Tensor, z: torch.Tensor, *own: torch.Tensor
    ) -> torch.Tensor:
        ctx.towers = towers
        ctx.save_for_backward(z)
        return losses_K.clone()

    @staticmethod
    def backward(ctx: Any, factors_K: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (z,) = ctx.saved_tensors
        at_z, own = ctx.towers.release(factors_K)
        return None, None, ctx.towers.boundary.balance(z, at_z, ctx.towers.intact), *own


class Towers:
    """The towers of one forward.

    Args:
        names: the objectives, in order.
        boundary, gates: those of the model.
    """

    def __init__(self, names: Sequence[str], boundary: Boundary, gates: Gates) -> None:
        self.names, self.boundary, self.gates = tuple(names), boundary, gates
        self._losses: list[torch.Tensor] = []
        self._parameters: list[torch.Tensor] = []
        self._gradients: list[list[torch.Tensor]] = []

    def add(self, loss: torch.Tensor, view: torch.Tensor, parameters: Sequence[torch.Tensor]) -> None:
        """Differentiate the next tower with respect to its view of z and its own parameters; its graph is freed.

        Where gradients are switched off, its loss is kept and nothing else.
        """
        self._losses.append(loss.detach())
        if not view.requires_grad:
            return
        with torch.autocast(loss.device.type, enabled=False):
            found = torch.autograd.grad(loss, [view, *parameters], allow_unused=True, materialize_grads=True)
        self._parameters.extend(parameters)
        self._gradients.append(list(found))

    def losses(self, z: torch.Tensor) -> torch.Tensor:
        """The losses (K,); one backward through them reaches z and every tower's parameters."""
        return _Known.apply(self, torch.stack(self._losses), z, *self._parameters)

    def release(self, factors_K: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], list[torch.Tensor]]:
        """The gradients at z and of all parameters, times the factors of their losses; zeros behind a closed gate."""
        assert self._gradients, "one backward per forward: the gradients have been handed on already"
        at_z, own = [], []
        for name, factor in zip(self.names, factors_K, strict=True):
            found = self._gradients.pop(0)
            closed = name in self.gates.closed
            scaled = [torch.zeros_like(g) if closed else g * factor for g in found]
            at_z.append(scaled[0])
            own.extend(scaled[1:])
        return tuple(at_z), own

    def intact(self) -> torch.Tensor:
        """Which objectives' cotangents have arrived whole, bool (K,)."""
        return self.gates.intact(self.names, self._losses[0].device)
