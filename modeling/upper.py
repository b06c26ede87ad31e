"""The upper layers, run with the adapter of one objective or with none. Shape suffixes as in modeling/model.py."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from torch.utils.checkpoint import checkpoint

from equipoise.common.errors import UserError
from equipoise.modeling.adapters import activate, lora_layers
from equipoise.modeling.backbone import SplitBackbone
from equipoise.modeling.tap import LayerCall
from equipoise.modeling.until_keys import until_keys

TRACED_TOKENS = 2


@dataclass(frozen=True)
class TowerTokens:
    """Towers that pass a layer together, each with its own adapter.

    Attributes:
        spans: per objective the stretches of its tokens, (start, length) each.
        total: tokens of all.
    """

    spans: Mapping[str, tuple[tuple[int, int], ...]]
    total: int

    def axis(self, x: torch.Tensor) -> int:
        """The dimension of x along which its tokens are.

        Raises:
            UserError: there is none.
        """
        for axis, size in enumerate(x.shape[:-1]):
            if size == self.total:
                return axis
        raise UserError(
            "lora.targets: a module with an adapter does not see all tokens of a batch, so that towers cannot pass it "
            "together: set lora.targets=attention"
        )

    def cut(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """The tokens of one tower."""
        axis = self.axis(x)
        parts = [x.narrow(axis, start, length) for start, length in self.spans[name]]
        return parts[0] if len(parts) == 1 else torch.cat(parts, axis)

    def put_back(self, name: str, x: torch.Tensor, axis: int) -> torch.Tensor:
        """The tokens of one tower among those of all, zeros elsewhere."""
        parts, end, at = [], 0, 0

        def zeros(count: int) -> torch.Tensor:
            return x.new_zeros(*x.shape[:axis], count, *x.shape[axis + 1 :])

        for start, length in self.spans[name]:
            parts += [zeros(start - end), x.narrow(axis, at, length)]
            end, at = start + length, at + length
        return torch.cat([*parts, zeros(self.total - end)], axis)


Adapter = str | TowerTokens | None
"""The objective whose adapter acts, several that have tokens of their own, or none."""


class UpperLayers:
    """Runs the layers above the boundary.

    Args:
        backbone: cut, with its adapters injected.
        checkpointing: recompute a layer's activations in backward instead of keeping them.
        partial_last_layer: whether the last layer may be left as soon as its keys and values are known. Under ZeRO-3
            and FSDP 2 it may not: their hooks stand on the layer itself.
        compiled: whether the layers are.

    Attributes:
        count: of the layers.
        layer_of: the index, in the whole model, of the layer that a module belongs to.
        flattens: whether a module with an adapter has seen the tokens of all rows in one line.
        together: whether towers pass a layer together: where no process holds whole weights, so that each is gathered
            once for all of them; not where experts get some of the tokens, nor where layers are compiled.
    """

    def __init__(
        self, backbone: SplitBackbone, checkpointing: bool, partial_last_layer: bool = True, compiled: bool = False
    ) -> None:
        self.backbone, self.checkpointing, self.partial_last_layer = backbone, checkpointing, partial_last_layer
        self.count = len(backbone.upper)
        self.layer_of = dict(backbone.layer_of)
        self._switches = [lora_layers(layer) for layer in backbone.upper]
        self._last_until_keys: nn.Module | None = None
        self._acts_on_RT1: torch.Tensor | None = None
        self.flattens = False
        self._towers: TowerTokens | None = None
        self._axis = 0
        adapted = [name for layer in backbone.upper for name, m in layer.named_modules() if isinstance(m, LoraLayer)]
        self.together = not (partial_last_layer or compiled or any("expert" in name for name in adapted))
        for layer in (module for switches in self._switches for module in switches):
            for name, down in layer.lora_A.items():
                down.register_forward_pre_hook(partial(self._cut_tokens, name))
            for name, up in layer.lora_B.items():
                up.register_forward_hook(partial(self._mask_tokens, name))

    def _cut_tokens(self, name: str, module: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor] | None:
        if self._towers is None:
            return None
        self._axis = self._towers.axis(inputs[0])
        return (self._towers.cut(name, inputs[0]),)

    def _mask_tokens(self, name: str, module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        if self._towers is not None:
            return self._towers.put_back(name, output, self._axis)
        self.flattens |= output.ndim != 3
        return output if self._acts_on_RT1 is None else output * _like(self._acts_on_RT1, output).to(output.dtype)

    @contextmanager
    def acting(self, adapter: str | None, acts_on_RT1: torch.Tensor | None = None) -> Iterator[None]:
        """For a while, all upper layers have this adapter, wherever they are called; `acts_on_RT1` as for `run`."""
        for index in range(self.count):
            self._activate(index, adapter)
        self._acts_on_RT1 = acts_on_RT1
        try:
            yield
        finally:
            self._acts_on_RT1 = None

    def _activate(self, index: int, adapter: Adapter) -> None:
        names = list(adapter.spans) if isinstance(adapter, TowerTokens) else [adapter] if adapter else []
        for module in self._switches[index]:
            activate(module, names)

    def _run(
        self,
        index: int,
        adapter: Adapter,
        call: LayerCall,
        hidden_RTH: torch.Tensor,
        acts_on_RT1: torch.Tensor | None = None,
    ) -> torch.Tensor:
        # The adapter is chosen inside: under checkpointing this runs again in backward, after other towers have run.
        self._activate(index, adapter)
        self._acts_on_RT1 = acts_on_RT1
        self._towers = adapter if isinstance(adapter, TowerTokens) else None
        try:
            return self.backbone.run_upper(index, call, hidden_RTH)
        finally:
            self._acts_on_RT1 = self._towers = None

    def run(
        self,
        index: int,
        adapter: Adapter,
        call: LayerCall,
        hidden_RTH: torch.Tensor,
        acts_on_RT1: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """One layer: (R, T, H) → (R, T, H).

        Args:
            index: of the layer, 0 is the first above the boundary.
            adapter: the objective's name, or None for the frozen layer alone; or which tokens are whose.
            call: with which arguments; by value, for another forward may have run before backward recomputes this one.
            hidden_RTH: hidden states.
            acts_on_RT1: bool, on which tokens the adapter acts; None: on all.
        """
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(self._run, index, adapter, call, hidden_RTH, acts_on_RT1, use_reentrant=False)
        return self._run(index, adapter, call, hidden_RTH, acts_on_RT1)

    def run_last_until_keys(self, adapter: str | None, call: LayerCall, hidden_1FH: torch.Tensor) -> None:
        """Run the last layer as far as its keys and values, which the forward of `call` keeps."""
        self._activate(self.count - 1, adapter)
        if self._last_until_keys is None:
            self._last_until_keys = self._trim_last(call, hidden_1FH)
        self._last_until_keys(hidden_1FH, *call.args, **call.kwargs)

    def _trim_last(self, call: LayerCall, hidden_1FH: torch.Tensor) -> nn.Module:
        layer, tokens = self.backbone.upper[-1], hidden_1FH.shape[1]
        few = torch.arange(min(TRACED_TOKENS, tokens), device=hidden_1FH.device)
        few_1FH, few_call = hidden_1FH.index_select(1, few), call.at(few, tokens)

        def trace(slate_forward: Any) -> None:
            traced = few_call.with_forward(slate_forward)
            type(layer).forward(layer, few_1FH, *traced.args, **traced.kwargs)  # a compiled layer hides its modules

        trimmed = until_keys(layer, trace, hidden_1FH.device)
        index = len(self.backbone.taps) + self.backbone.split - 1
        self.layer_of |= dict.fromkeys(trimmed.modules(), index)
        return trimmed


def _like(acts_on_RT1: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """The tokens of the mask in the shape of a module's output: (R, T, …), (R · T, …) or (R, 1, T, …).

    Raises:
        UserError: the module's output has no place for each token, as of experts that get some of them.
    """
    rows, tokens, _ = acts_on_RT1.shape
    more = [1] * (output.ndim - 2)
    if output.shape[:2] == (rows, tokens):
        return acts_on_RT1.view(rows, tokens, *more)
    if output.shape[0] == rows * tokens:
        return acts_on_RT1.reshape(rows * tokens, *more, 1)
    if output.ndim == 4 and output.shape[:3] == (rows, 1, tokens):
        return acts_on_RT1[:, None]
    raise UserError(
        "lora.scope: a module with an adapter does not see a row token by token, so that adapters cannot be kept to "
        "candidates here: set lora.scope=all, or lora.targets=attention"
    )
