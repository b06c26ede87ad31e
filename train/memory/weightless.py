"""Models without their weights: shapes and dtypes alone, so that an 8B model runs a training step on a laptop.

Weights, hidden states and gradients are fake tensors that believe to lie on the CPU (so autocast, attention kernels and
checkpointing go the way of a real step); what lays a batch out (segments, positions, indices) keeps its values, because
the shapes of other tensors follow from them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)


class _RealLayouts(TorchDispatchMode):
    """Runs what reads real tensors alone on them, and answers for fake tensors what only values could tell."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not any(isinstance(leaf, FakeTensor) for leaf in tree_leaves((args, kwargs))):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if func is aten.equal.default:
            return True
        if func is aten._local_scalar_dense.default:
            return True if args[0].dtype == torch.bool else 1
        if func is aten._grouped_mm.default:
            return _grouped(*args, **kwargs)
        if func in INDEXING:
            args = (args[0], _without_masks(args[1]), *args[2:])
        return func(*args, **kwargs)


def _grouped(a: torch.Tensor, b: torch.Tensor, offs: torch.Tensor | None = None, *_: Any, **__: Any) -> torch.Tensor:
    """The shape of the experts' product; torch's own says it for bfloat16 alone, though it computes float32 too."""
    groups = offs.shape[0] if offs is not None else 1
    both = {(2, 3): (a.shape[0], b.shape[-1]), (2, 2): (groups, a.shape[0], b.shape[1])}
    shape = both.get((a.ndim, b.ndim), (*a.shape[:-1], b.shape[-1]))
    return a.new_empty(shape if (a.ndim, b.ndim) != (3, 2) else (a.shape[1], b.shape[1]))


def _without_masks(indices: list[torch.Tensor | None]) -> list[torch.Tensor | None]:
    """Indices in which real boolean masks have become the positions that they select."""
    tensors: list[torch.Tensor | None] = []
    for index in indices:
        if index is not None and index.dtype == torch.bool and not isinstance(index, FakeTensor):
            with unset_fake_temporarily():
                tensors.extend(index.nonzero().unbind(1))
        else:
            tensors.append(index)
    return tensors


class Weightless:
    """Turns a model built on the meta device into one of fake tensors, and runs code with it."""

    def __init__(self) -> None:
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)

    def _fake(self, tensor: torch.Tensor) -> FakeTensor:
        return FakeTensor(self._mode, tensor.detach(), torch.device("cpu"))

    def convert(self, model: nn.Module) -> None:
        """Make the model's parameters and buffers fake, in place: whoever holds a parameter holds the fake one."""
        for parameter in list(model.parameters()):
            fake = self._fake(parameter)
            fake.requires_grad_(parameter.requires_grad)
            fake._is_param = True
            torch.utils.swap_tensors(parameter, fake)
        for module in model.modules():
            for name, buffer in module._buffers.items():
                if buffer is not None and buffer.is_meta:
                    module._buffers[name] = self._fake(buffer)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Inside, operations on fake tensors give fake tensors, and those on real ones alone give real ones."""
        with self._mode, _RealLayouts():
            yield
