"""The upper layers, run with the adapter of one objective or with none.

Shape suffixes: R rows, T tokens of a row, H hidden size.
"""

from contextlib import suppress
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from equipoise.modeling.adapters import activate, lora_layers
from equipoise.modeling.attention.prefix_split import Enough
from equipoise.modeling.backbone import LayerCall, SplitBackbone


class UpperLayers:
    """Runs the layers above the boundary.

    Args:
        backbone: cut, with its adapters injected.
        checkpointing: recompute a layer's activations in backward instead of keeping them.

    Attributes:
        stops_early: whether a layer may be left as soon as its keys and values are known. Under ZeRO-3 it may not: its
            weights would never be given back.
    """

    def __init__(self, backbone: SplitBackbone, checkpointing: bool) -> None:
        self.backbone, self.checkpointing = backbone, checkpointing
        self.stops_early = True
        self.count = len(backbone.upper)
        self._switches = [lora_layers(layer) for layer in backbone.upper]
        self._acts_on_RT1: torch.Tensor | None = None
        for layer in (module for switches in self._switches for module in switches):
            for up in layer.lora_B.values():
                up.register_forward_hook(self._mask_tokens)

    def _mask_tokens(self, module: nn.Module, inputs: Any, output_RTH: torch.Tensor) -> torch.Tensor:
        return output_RTH if self._acts_on_RT1 is None else output_RTH * self._acts_on_RT1.to(output_RTH.dtype)

    def _run(
        self,
        index: int,
        adapter: str | None,
        call: LayerCall,
        hidden_RTH: torch.Tensor,
        acts_on_RT1: torch.Tensor | None = None,
    ) -> torch.Tensor:
        # The adapter is chosen inside: under checkpointing this runs again in backward, after other towers have run.
        for module in self._switches[index]:
            activate(module, adapter)
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

    def run_for_keys(self, index: int, adapter: str | None, call: LayerCall, hidden_RTH: torch.Tensor) -> None:
        """Run a layer whose pass raises `Enough` when its keys and values are kept."""
        with suppress(Enough):
            self._run(index, adapter, call, hidden_RTH)
