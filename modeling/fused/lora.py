"""Linear layers with the adapters of several towers at once, and where the adapters' weights come from.

Shape suffixes: K towers, F tokens of each, H inputs, O outputs, R ranks (of all adapters that read the same input).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from equipoise.modeling.fused.kernels import KernelFunction


def without_autocast(backward: Callable[..., Any]) -> Callable[..., Any]:
    """A backward that computes in the dtypes that it gets, wherever it is called."""

    def inside(ctx: Any, *gradients: torch.Tensor) -> Any:
        device = gradients[0].device.type
        if not torch.is_autocast_enabled(device):
            return backward(ctx, *gradients)
        with torch.autocast(device, enabled=False):
            return backward(ctx, *gradients)

    return inside


Pair = tuple[torch.Tensor, torch.Tensor] | None
"""A (K, R, H) and B (K, O, R) of a group of linear layers, B with the factor α/r; None: no adapter."""


@dataclass(frozen=True)
class Linears:
    """Linear layers that read the same input, as one: weight (O, H) and bias (O,) or None, frozen."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __call__(self, x: torch.Tensor, pair: Pair) -> torch.Tensor:
        """x Wᵀ + bias + x Aᵀ Bᵀ of K towers (Hu et al. 2021), (K, F, O) from x (K, F, H)."""
        return _LoraLinear.apply(x, self, *(pair or (None, None)))

    def forward(
        self, x: torch.Tensor, a: torch.Tensor | None, b: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What it gives, and x Aᵀ, which `backward` needs: three products, or one without an adapter."""
        out = nn.functional.linear(x, self.weight, self.bias)
        if a is None or b is None:
            return out, None
        low = torch.bmm(x, a.transpose(1, 2))
        return out.baddbmm_(low, b.transpose(1, 2)), low

    def backward(
        self,
        grad: torch.Tensor,
        x: torch.Tensor | None,
        a: torch.Tensor | None,
        b: torch.Tensor | None,
        low: torch.Tensor | None,
        of_x: bool = True,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Gradients of x (None unless `of_x`), A and B: five products, or one; without an adapter x is not read."""
        dx = grad @ self.weight if of_x else None
        if x is None or a is None or b is None or low is None:
            return dx, None, None
        d_low = torch.bmm(grad, b)
        if dx is not None:
            dx.baddbmm_(d_low, a)
        return dx, torch.bmm(d_low.transpose(1, 2), x), torch.bmm(grad.transpose(1, 2), low)


class _LoraLinear(KernelFunction):
    """`Linears` as a function of their own."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, linears: Linears, a: torch.Tensor | None, b: torch.Tensor | None
    ) -> torch.Tensor:
        out, low = linears.forward(x, a, b)
        ctx.linears = linears
        ctx.save_for_backward(None if a is None else x, a, b, low)
        return out

    @staticmethod
    @without_autocast
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        dx, da, db = ctx.linears.backward(grad.contiguous(), *ctx.saved_tensors, ctx.needs_input_grad[0])
        return dx, None, da, db


@dataclass(frozen=True)
class Member:
    """One linear layer within a group that reads the same input.

    Attributes:
        outputs: O of it.
        adapters: per tower its A (r, H) and B (O, r); empty where it has none.
    """

    outputs: int
    adapters: Sequence[tuple[nn.Parameter, nn.Parameter]]


class AdapterBank:
    """The adapters of groups of linear layers as one tensor: laid side by side, in the dtype of the products.

    Args:
        groups: of members, all with adapters for the same K towers.
        towers: K.
        scale: α/r, by which B is multiplied.

    Attributes:
        parameters: in the order in which they lie: all A, then all B.
        a_size: elements of all A.
    """

    def __init__(self, groups: Sequence[Sequence[Member]], towers: int, scale: float) -> None:
        self.scale = scale
        self.parameters: list[nn.Parameter] = []
        self._a_shapes: list[tuple[int, int, int]] = []
        self._b_shapes: list[tuple[int, int, int]] = []
        self._held = [any(member.adapters for member in group) for group in groups]
        adapted = [group for group, held in zip(groups, self._held, strict=True) if held]
        for group in adapted:
            members = [member for member in group if member.adapters]
            ranks = sum(member.adapters[0][0].shape[0] for member in members)
            self._a_shapes.append((towers, ranks, members[0].adapters[0][0].shape[1]))
            self.parameters += [member.adapters[k][0] for k in range(towers) for member in members]
        self.a_size = sum(p.numel() for p in self.parameters)
        for group in adapted:
            self._b_shapes.append((towers, sum(m.outputs for m in group), self._a_shapes[len(self._b_shapes)][1]))
            self.parameters += [member.adapters[k][1] for k in range(towers) for member in group if member.adapters]
        self._a_sizes, self._b_sizes = ([math.prod(s) for s in each] for each in (self._a_shapes, self._b_shapes))
        self._places = _block_places(adapted, towers, self._b_shapes)
        self._positions: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}

    def positions(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Where each element of the block-diagonal B comes from among those of all B, 0 for none and 1 for the first;
        and where each of those stands, int32, on a device."""
        if device not in self._positions:
            at = np.flatnonzero(self._places)
            where = np.empty(len(at), np.int32)
            where[self._places[at] - 1] = at
            both = (torch.from_numpy(self._places), torch.from_numpy(where))
            self._positions[device] = tuple(each.to(device) for each in both)  # type: ignore[assignment]
        return self._positions[device]

    def laid_out(self, dtype: torch.dtype) -> list[tuple[torch.Tensor, torch.Tensor] | None]:
        """A (K, R, H) and B (K, O, R) of every group, block-diagonal over its members; None of groups without any."""
        if not self.parameters:
            return [None] * len(self._held)
        tensors = iter(_LaidOut.apply(self, dtype, *self.parameters))
        pairs = iter([(next(tensors), next(tensors)) for _ in self._a_shapes])
        return [next(pairs) if held else None for held in self._held]

    def split(self, flat_a: torch.Tensor, flat_b: torch.Tensor) -> list[torch.Tensor]:
        """Views A, B, A, B, … of two flat tensors."""
        found = []
        for a, b, a_shape, b_shape in zip(
            flat_a.split(self._a_sizes), flat_b.split(self._b_sizes), self._a_shapes, self._b_shapes, strict=True
        ):
            found += [a.view(a_shape), b.view(b_shape)]
        return found


def _block_places(
    groups: Sequence[Sequence[Member]], towers: int, shapes: Sequence[tuple[int, int, int]]
) -> np.ndarray:
    """Of each element of all groups' B which element of the members' own it is, counted from 1, else 0; int32."""
    found, count = [], 1
    for group, shape in zip(groups, shapes, strict=True):
        places = np.zeros(shape, np.int32)
        for tower in range(towers):
            row = column = 0
            for member in group:
                if member.adapters:
                    size = member.adapters[tower][1].shape
                    block = np.arange(count, count + size[0] * size[1], dtype=np.int32).reshape(size)
                    places[tower, row : row + size[0], column : column + size[1]] = block
                    count, column = count + block.size, column + size[1]
                row += member.outputs
        found.append(places.reshape(-1))
    return np.concatenate(found) if found else np.zeros(0, np.int32)


class _LaidOut(KernelFunction):
    """Adapters' weights side by side, and their gradients back where they came from."""

    @staticmethod
    def forward(ctx: Any, bank: AdapterBank, dtype: torch.dtype, *parameters: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.bank, ctx.dtype = bank, parameters[0].dtype
        half = len(parameters) // 2  # as many A as B; between them the zero that the blocks of B are filled up with
        zero = parameters[0].new_zeros(1)
        flat = _flatten_dense_tensors([*parameters[:half], zero, *parameters[half:]]).to(dtype)
        from_own, _ = bank.positions(flat.device)
        return tuple(bank.split(flat[: bank.a_size], flat[bank.a_size :].index_select(0, from_own).mul_(bank.scale)))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        bank = ctx.bank
        _, where = bank.positions(gradients[0].device)
        flat_a = _flatten_dense_tensors(gradients[::2])
        flat_b = _flatten_dense_tensors(gradients[1::2]).index_select(0, where).mul_(bank.scale)
        flat = torch.cat([flat_a, flat_b]).to(ctx.dtype)
        return None, None, *_unflatten_dense_tensors(flat, bank.parameters)
