"""The upper layers, run with the adapter of one objective or with none. Shape suffixes as in modeling/model.py."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from equipoise.common.errors import UserError
from equipoise.modeling.adapters import activate, lora_layers
from equipoise.modeling.backbone import SplitBackbone
from equipoise.modeling.tap import LayerCall
from equipoise.modeling.until_keys import until_keys

TRACED_TOKENS = 2


class UpperLayers:
    """Runs the layers above the boundary.

    Args:
        backbone: cut, with its adapters injected.
        checkpointing: recompute a layer's activations in backward instead of keeping them.
        partial_last_layer: whether the last layer may be left as soon as its keys and values are known. Under ZeRO-3
            and FSDP 2 it may not: their hooks stand on the layer itself.

    Attributes:
        count: of the layers.
        layer_of: the index, in the whole model, of the layer that a module belongs to.
        flattens: whether a module with an adapter has seen the tokens of all rows in one line.
    """

    def __init__(self, backbone: SplitBackbone, checkpointing: bool, partial_last_layer: bool = True) -> None:
        self.backbone, self.checkpointing, self.partial_last_layer = backbone, checkpointing, partial_last_layer
        self.count = len(backbone.upper)
        self.layer_of = dict(backbone.layer_of)
        self._switches = [lora_layers(layer) for layer in backbone.upper]
        self._last_until_keys: nn.Module | None = None
        self._acts_on_RT1: torch.Tensor | None = None
        self.flattens = False
        for layer in (module for switches in self._switches for module in switches):
            for up in layer.lora_B.values():
                up.register_forward_hook(self._mask_tokens)

    def _mask_tokens(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
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

    def _activate(self, index: int, adapter: str | None) -> None:
        for module in self._switches[index]:
            activate(module, adapter)

    def _run(
        self,
        index: int,
        adapter: str | None,
        call: LayerCall,
        hidden_RTH: torch.Tensor,
        acts_on_RT1: torch.Tensor | None = None,
    ) -> torch.Tensor:
        # The adapter is chosen inside: under checkpointing this runs again in backward, after other towers have run.
        self._activate(index, adapter)
        self._acts_on_RT1 = acts_on_RT1
        try:
            return self.backbone.run_upper(index, call, hidden_RTH)
        finally:
            self._acts_on_RT1 = None

    def run(
        self,
        index: int,
        adapter: str | None,
        call: LayerCall,
        hidden_RTH: torch.Tensor,
        acts_on_RT1: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """One layer: (R, T, H) → (R, T, H).

        Args:
            index: of the layer, 0 is the first above the boundary.
            adapter: the objective's name, or None for the frozen layer alone.
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
