"""A layer as far as its keys and values: a copy that shares its weights and skips whatever follows its attention.

It needs no knowledge of the architecture: one call of the layer on a few tokens shows which of its modules begin only
after the attention. What is left are the same modules on the same inputs, so keys and values are bit-equal.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from equipoise.modeling.attention.prefix_split import no_output


class Skipped(nn.Module):
    """In the place of a module whose output nobody reads: zeros of its shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        """Zeros (…, width) for x (…, any)."""
        return x.new_zeros(*x.shape[:-1], self.width)


class _Trace:
    """What a layer's attention is given while it is traced; it notes which modules begin before, which after it.

    Attributes:
        after: output width of the modules that begin after the attention and map (…, any) to (…, width).
    """

    def __init__(self) -> None:
        self._before: set[nn.Module] = set()
        self._reached = False
        self.after: dict[nn.Module, int] = {}

    def attend(
        self, module: nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, causal: bool
    ) -> torch.Tensor:
        """Zeros (1, F, h, D): the attention has been reached."""
        self._reached = True
        return no_output(q, v)

    def _enter(self, module: nn.Module, inputs: tuple[object, ...]) -> None:
        if not self._reached:
            self._before.add(module)

    def _leave(self, module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        x = inputs[0] if inputs else None
        if module in self._before or not isinstance(x, torch.Tensor) or not isinstance(output, torch.Tensor):
            return
        if output.shape[:-1] == x.shape[:-1]:
            self.after[module] = output.shape[-1]

    @contextmanager
    def over(self, layer: nn.Module) -> Iterator[None]:
        """Inside, the layer's modules are watched."""
        modules = [module for module in layer.modules() if module is not layer]
        handles = [module.register_forward_pre_hook(self._enter) for module in modules]
        handles += [module.register_forward_hook(self._leave) for module in modules]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def until_keys(layer: nn.Module, call: Callable[[object], object], device: torch.device) -> nn.Module:
    """The copy of a layer that ends with its keys and values; its own output is meaningless.

    Args:
        layer: with prefix-split attention, not compiled while it is traced.
        call: runs the layer on a few tokens, with the object that its attention is to be given.
        device: of the tokens; random states there and on the CPU stay as they are.
    """
    trace = _Trace()
    with trace.over(layer), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        call(trace)
    return _without(layer, trace.after)


def _without(module: nn.Module, skipped: dict[nn.Module, int]) -> nn.Module:
    if module in skipped:
        return Skipped(skipped[module])
    children = {name: _without(child, skipped) for name, child in module.named_children()}
    if all(child is module.get_submodule(name) for name, child in children.items()):
        return module
    trimmed = copy.copy(module)
    trimmed._modules = {**module._modules, **children}
    trimmed.__dict__.pop("_compiled_call_impl", None)
    return trimmed
