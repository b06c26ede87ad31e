"""What fused kernels need to know of a layer of the Llama family, and why another backbone keeps the plain path."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from equipoise.common.errors import UserError
from equipoise.configs.schema import BackboneConfig, LoraConfig
from equipoise.modeling.adapters import SHARED
from equipoise.modeling.backbone import SplitBackbone
from equipoise.modeling.fused.lora import AdapterBank, Member

FAMILY = ("llama", "mistral", "qwen2", "qwen3")
GROUPS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
"""Linear layers that read the same input."""


@dataclass(frozen=True)
class Linears:
    """Linear layers that read the same input, as one: weight (O, H) and bias (O,) or None, frozen."""

    weight: torch.Tensor
    bias: torch.Tensor | None


@dataclass(frozen=True)
class FusedLayer:
    """A layer's frozen weights.

    Attributes:
        qkv, out, gate_up, down: its linear layers.
        norm_in, norm_mlp: weights of its normalisations.
        norm_q, norm_k: those of queries and keys, where it has any.
        eps: of the normalisations.
        heads, key_heads, size: of its attention.
        scale: of its scores.
    """

    qkv: Linears
    out: Linears
    gate_up: Linears
    down: Linears
    norm_in: torch.Tensor
    norm_mlp: torch.Tensor
    norm_q: torch.Tensor | None
    norm_k: torch.Tensor | None
    eps: float
    heads: int
    key_heads: int
    size: int
    scale: float


def why_plain(backbone: SplitBackbone, config: BackboneConfig, lora: LoraConfig) -> str | None:
    """Why a backbone cannot be computed by fused kernels; None where it can.

    Args:
        backbone: cut, with its adapters.
        config, lora: of the run.
    """
    kind = backbone.config.model_type
    if kind not in FAMILY:
        return f"they know {', '.join(FAMILY)}, not {kind}"
    reasons = {
        "lora.dropout must be 0": lora.dropout > 0,
        "backbone.quantize must be null": config.quantize is not None,
        "backbone.checkpointing must be false": config.checkpointing,
        "backbone.compile must be false": config.compile,
        "backbone.attention must be split": backbone.attention != "split",
    }
    for reason, holds in reasons.items():
        if holds:
            return reason
    if getattr(backbone.config, "hidden_act", "silu") != "silu":
        return f"they compute silu, not {backbone.config.hidden_act}"
    return None


def _base(linear: nn.Module) -> Any:
    return linear.get_base_layer() if isinstance(linear, LoraLayer) else linear


def _joined(linears: Sequence[nn.Module]) -> Linears:
    """Several linear layers as one whose memory they share from now on, so that nothing is held twice."""
    bases = [_base(linear) for linear in linears]
    if len(bases) == 1:
        return Linears(bases[0].weight.detach(), None if bases[0].bias is None else bases[0].bias.detach())
    weight = torch.cat([base.weight.detach() for base in bases])
    for base, part in zip(bases, weight.split([base.weight.shape[0] for base in bases]), strict=True):
        base.weight.data = part
    biased = [base.bias is not None for base in bases]
    if not any(biased):
        return Linears(weight, None)
    of_each = [base.weight.new_zeros(base.weight.shape[0]) if base.bias is None else base.bias for base in bases]
    return Linears(weight, torch.cat([bias.detach() for bias in of_each]))


def _linear_of(layer: nn.Module, name: str) -> nn.Module:
    part: Any = layer.self_attn if name in (*GROUPS[0], *GROUPS[1]) else layer.mlp
    return getattr(part, name)


def describe_layer(layer: Any) -> FusedLayer:
    """A stock layer's weights; those of linear layers that read the same input are laid end to end in memory."""
    qkv, out, gate_up, down = (_joined([_linear_of(layer, name) for name in group]) for group in GROUPS)
    attention, norm = layer.self_attn, layer.input_layernorm
    size = attention.head_dim
    outputs = [_base(_linear_of(layer, name)).weight.shape[0] for name in GROUPS[0]]
    norm_q, norm_k = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))
    return FusedLayer(
        qkv=qkv,
        out=out,
        gate_up=gate_up,
        down=down,
        norm_in=norm.weight.detach(),
        norm_mlp=layer.post_attention_layernorm.weight.detach(),
        norm_q=None if norm_q is None else norm_q.weight.detach(),
        norm_k=None if norm_k is None else norm_k.weight.detach(),
        eps=norm.variance_epsilon,
        heads=outputs[0] // size,
        key_heads=outputs[1] // size,
        size=size,
        scale=attention.scaling,
    )


def _pair(linear: Any, name: str) -> tuple[nn.Parameter, nn.Parameter]:
    return linear.lora_A[name].weight, linear.lora_B[name].weight


def adapter_bank(layers: Sequence[nn.Module], names: Sequence[str], scale: float) -> AdapterBank:
    """The adapters of some towers, or of the trunk, in some layers: four groups a layer, in the order of GROUPS."""
    groups = []
    for layer in layers:
        for group in GROUPS:
            members = []
            for linear in (_linear_of(layer, name) for name in group):
                adapted = isinstance(linear, LoraLayer) and all(name in linear.lora_A for name in names)
                pairs = [_pair(linear, name) for name in names] if adapted else []
                if len({a.shape[0] for a, _ in pairs}) > 1:
                    raise UserError(
                        "backbone.kernels: fused lays the objectives' adapters side by side, and lora.ranks gives them "
                        "several ranks: set backbone.kernels=plain"
                    )
                members.append(Member(_base(linear).weight.shape[0], pairs))
            groups.append(members)
    return AdapterBank(groups, len(names), scale)


def adapter_scale(layers: Sequence[nn.Module], name: str = SHARED) -> float:
    """α/r of an adapter, which is the same in all layers."""
    scales = {
        round(m.scaling[name], 9)
        for layer in layers
        for m in layer.modules()
        if isinstance(m, LoraLayer) and name in m.scaling
    }
    assert len(scales) == 1, "alpha follows the rank"
    return scales.pop()
