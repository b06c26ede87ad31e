"""What fused kernels need to know of a layer of the Llama or BERT family, and why another keeps the plain path."""

from collections.abc import Sequence
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from equipoise.common.errors import UserError
from equipoise.configs.schema import BackboneConfig, LoraConfig
from equipoise.modeling.backbone import SplitBackbone
from equipoise.modeling.fused.blocks import BertBlock, Block, LayerNorm, ModernBertBlock
from equipoise.modeling.fused.llama_block import LlamaBlock
from equipoise.modeling.fused.lora import AdapterBank, Linears, Member

DECODERS = ("llama", "mistral", "qwen2", "qwen3")
ENCODERS = ("bert", "roberta", "xlm-roberta", "camembert", "modernbert")
Groups = tuple[tuple[str, ...], ...]
LLAMA: Groups = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)
BERT: Groups = (
    ("attention.self.query", "attention.self.key", "attention.self.value"),
    ("attention.output.dense",),
    ("intermediate.dense",),
    ("output.dense",),
)
MODERNBERT: Groups = (("attn.Wqkv",), ("attn.Wo",), ("mlp.Wi",), ("mlp.Wo",))
"""Linear layers that read the same input."""


def why_plain(backbone: SplitBackbone, config: BackboneConfig, lora: LoraConfig) -> str | None:
    """Why a backbone cannot be computed by fused kernels; None where it can.

    Args:
        backbone: cut, with its adapters.
        config, lora: of the run.
    """
    kind = backbone.config.model_type
    if kind not in (*DECODERS, *ENCODERS):
        return f"they know {', '.join((*DECODERS, *ENCODERS))}, not {kind}"
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
    if (kind in ENCODERS) != backbone.encoder or (backbone.encoder and getattr(backbone.config, "is_causal", False)):
        return f"they compute {kind} as {'an encoder' if kind in ENCODERS else 'a decoder'} alone"
    if kind in DECODERS and getattr(backbone.config, "hidden_act", "silu") != "silu":
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


def _groups(layer: nn.Module) -> Groups:
    if hasattr(layer, "self_attn"):
        return LLAMA
    return MODERNBERT if hasattr(layer, "attn") else BERT


def describe_layer(layer: nn.Module) -> Block:
    """A stock layer's weights; those of linear layers that read the same input are laid end to end in memory."""
    groups = _groups(layer)
    describe = {LLAMA: _describe_llama, BERT: _describe_bert, MODERNBERT: _describe_modernbert}[groups]
    return describe(layer, *(_joined([layer.get_submodule(name) for name in group]) for group in groups))


def _heads(linears: Sequence[Linears], size: int, keys: int) -> dict[str, Any]:
    """What blocks of any kind hold of linear layers and heads; `size` of one, `keys`: outputs of `qkv`."""
    qkv, out, up, down = linears
    heads = (len(qkv.weight) - 2 * keys) // size
    return {"qkv": qkv, "out": out, "up": up, "down": down, "heads": heads, "key_heads": keys // size, "size": size}


def _describe_llama(layer: Any, *linears: Linears) -> LlamaBlock:
    attention, norm = layer.self_attn, layer.input_layernorm
    norm_q, norm_k = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))
    return LlamaBlock(
        **_heads(linears, attention.head_dim, len(_base(attention.k_proj).weight)),
        eps=norm.variance_epsilon,
        scale=attention.scaling,
        positions="",
        norm_in=norm.weight.detach(),
        norm_mlp=layer.post_attention_layernorm.weight.detach(),
        norm_q=None if norm_q is None else norm_q.weight.detach(),
        norm_k=None if norm_k is None else norm_k.weight.detach(),
    )


def _describe_bert(layer: Any, *linears: Linears) -> BertBlock:
    attention = layer.attention.self
    return BertBlock(
        **_heads(linears, attention.attention_head_size, len(_base(attention.key).weight)),
        eps=layer.output.LayerNorm.eps,
        scale=attention.scaling,
        positions="",
        norm_attention=_layer_norm(layer.attention.output.LayerNorm),
        norm_mlp=_layer_norm(layer.output.LayerNorm),
        activation=layer.intermediate.intermediate_act_fn,
    )


def _describe_modernbert(layer: Any, *linears: Linears) -> ModernBertBlock:
    attention = layer.attn
    return ModernBertBlock(
        **_heads(linears, attention.head_dim, len(_base(attention.Wqkv).weight) // 3),
        eps=layer.mlp_norm.eps,
        scale=attention.head_dim**-0.5,
        positions=layer.attention_type,
        norm_in=None if isinstance(layer.attn_norm, nn.Identity) else _layer_norm(layer.attn_norm),
        norm_mlp=_layer_norm(layer.mlp_norm),
        activation=layer.mlp.act,
    )


def _layer_norm(norm: nn.LayerNorm) -> LayerNorm:
    return norm.weight.detach(), None if norm.bias is None else norm.bias.detach()


def _pair(linear: Any, name: str) -> tuple[nn.Parameter, nn.Parameter]:
    return linear.lora_A[name].weight, linear.lora_B[name].weight


def adapter_bank(layers: Sequence[nn.Module], names: Sequence[str], scale: float) -> AdapterBank:
    """The adapters of some towers, or of the trunk, in some layers: four groups a layer."""
    groups = []
    for layer in layers:
        for group in _groups(layer):
            members = []
            for linear in (layer.get_submodule(name) for name in group):
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


def adapter_scale(layers: Sequence[nn.Module]) -> float:
    """α/r, which is the same for all adapters in all layers."""
    scales = {
        round(scale, 9)
        for layer in layers
        for m in layer.modules()
        if isinstance(m, LoraLayer)
        for scale in m.scaling.values()
    }
    assert len(scales) == 1, "alpha follows the rank"
    return scales.pop()
