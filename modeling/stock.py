"""What the stock class makes of separate prompts, with the same weights and adapters: what packed slates must equal.

Shape suffixes: B prompts, T tokens of the longest, H hidden size.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from equipoise.modeling.adapters import lora_layers
from equipoise.modeling.masks import restarted, slate_additive_mask, slate_mask
from equipoise.modeling.tap import LayerCall
from equipoise.modeling.upper import UpperLayers

SIGNAL = 0.05
"""Size of what `signalled` adds, beside inputs of size 1."""


def stock_vectors(
    upper: UpperLayers, objectives: Sequence[str], prompts: Mapping[str, Any], candidates_only: bool
) -> dict[str, torch.Tensor]:
    """The vectors (B, H) of the prompts' candidates as `NAME.vector`, for every objective, from the whole stock model.

    Args:
        upper: of a backbone with its adapters.
        objectives: their names.
        prompts: `input_ids` and `segment_ids`, int64 (B, T): 0 the prefix, 1 the candidate behind it, −1 padding.
        candidates_only: objective adapters act on candidate tokens alone.
    """
    backbone = upper.backbone
    ids_BT, segments_BT = prompts["input_ids"], prompts["segment_ids"]
    own_BT = segments_BT == 1
    acts_on_BT1 = own_BT[..., None] if candidates_only else None
    vectors = {}
    with backbone.stock() as model:
        arguments = _arguments(backbone, segments_BT)
        for name in objectives:
            with upper.acting(name, acts_on_BT1), _apart(backbone, segments_BT, arguments["attention_mask"]):
                states_BTH = model(input_ids=ids_BT, use_cache=False, **arguments).last_hidden_state
            vectors[f"{name}.vector"] = _pooled(states_BTH, own_BT, backbone.pooling)
    return vectors


def _arguments(backbone: Any, segments_BT: torch.Tensor) -> dict[str, Any]:
    """Decoders are called as everyone does; in encoders a prefix sees itself alone, as in exports."""
    if not backbone.encoder and not backbone.apart:
        return {"attention_mask": (segments_BT >= 0).long()}
    positions_T = torch.arange(segments_BT.shape[1], device=segments_BT.device)
    positions_BT = torch.where(segments_BT >= 0, positions_T, 0)
    if backbone.restarts:
        positions_BT = restarted(positions_BT, segments_BT)
    mask = _mask(backbone, segments_BT, apart=False)
    return {"attention_mask": mask, "position_ids": positions_BT + backbone.first_position}


def _mask(backbone: Any, segments_BT: torch.Tensor, apart: bool) -> torch.Tensor:
    make = slate_mask if backbone.attention == "sdpa" else slate_additive_mask
    return make(segments_BT, causal=not backbone.encoder, apart=apart)


@contextmanager
def _apart(backbone: Any, segments_BT: torch.Tensor, given: torch.Tensor) -> Iterator[None]:
    """Where the trunk sees candidates apart from prefixes: its layers get the mask of that for the `given` one."""
    own = _mask(backbone, segments_BT, apart=True) if backbone.apart else None

    def masked(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        call = LayerCall(args, kwargs).with_mask(given, own)
        return call.args, call.kwargs

    layers = backbone.trunk.get_submodule(backbone.layers_name)[: backbone.split] if backbone.apart else []
    handles = [layer.register_forward_pre_hook(masked, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _pooled(states_BTH: torch.Tensor, own_BT: torch.Tensor, pooling: str) -> torch.Tensor:
    if pooling == "mean":
        weights_BT1 = own_BT[..., None].to(states_BTH.dtype)
        return (states_BTH * weights_BT1).sum(1) / weights_BT1.sum(1)
    last_B = own_BT.shape[1] - 1 - own_BT.flip(1).int().argmax(1)
    return states_BTH[torch.arange(len(last_B), device=last_B.device), last_B]


class Signal:
    """What stands for trained adapters before training: fresh ones add nothing, so that a misplaced one would not show.

    Attributes:
        seen: the up-projections of adapters that have been called.
    """

    def __init__(self) -> None:
        self.seen: set[nn.Module] = set()

    def _add(self, module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        self.seen.add(module)
        wave_H = torch.cos(torch.arange(output.shape[-1], device=output.device, dtype=torch.float32))
        return output + SIGNAL * (inputs[0].sum(-1, keepdim=True) * wave_H).to(output.dtype)


@contextmanager
def signalled(model: nn.Module) -> Iterator[Signal]:
    """For a while, all adapters of a model add something that can be told apart, by token and by module."""
    signal = Signal()
    # First, so that what hides adapters from prefix tokens hides this too.
    ups = [up for layer in lora_layers(model) for up in layer.lora_B.values()]
    handles = [up.register_forward_hook(signal._add, prepend=True) for up in ups]
    try:
        yield signal
    finally:
        for handle in handles:
            handle.remove()
