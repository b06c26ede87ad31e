"""A base packed to 4 bits (nf4, double quantisation) by bitsandbytes, as in QLoRA (Dettmers et al., 2023)."""

import importlib.util
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from equipoise.common.errors import UserError

NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
"""Arguments of BitsAndBytesConfig, all but the dtype in which products are computed."""


def require_bitsandbytes() -> None:
    """Refuse to go on without the package that packs.

    Raises:
        UserError: bitsandbytes is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("backbone.quantize: 4bit needs its package: run `pip install 'equipoise[quantized]'`")


def quantization_config() -> BitsAndBytesConfig:
    """For from_pretrained, which packs while it loads; products are computed in float32 until `compute_in`.

    Raises:
        UserError: bitsandbytes is not installed.
    """
    require_bitsandbytes()
    return BitsAndBytesConfig(**NF4, bnb_4bit_compute_dtype=torch.float32)


def pack(model: nn.Module) -> None:
    """Pack the linear layers of a model that is already built, in place, as from_pretrained would.

    Raises:
        UserError: bitsandbytes is not installed, or the layers are none that it packs.
    """
    require_bitsandbytes()
    from bitsandbytes.nn import Linear4bit, Params4bit

    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if not isinstance(child, nn.Linear):
                continue
            with torch.device("meta"):
                packed = Linear4bit(child.in_features, child.out_features, child.bias is not None, torch.float32)
            weight: Any = Params4bit(child.weight.data, quant_type="nf4", module=packed)
            packed.weight = weight.to(child.weight.device)  # this packs
            packed.bias = child.bias
            setattr(parent, name, packed)
    model.is_loaded_in_4bit = True  # type: ignore[assignment]  # PEFT asks for this name
    settle(model)


def packed_layers(model: nn.Module) -> list[Any]:
    """The packed linear layers of a model, not what an adapter wraps around them."""
    from bitsandbytes.nn import Linear4bit

    return [module for module in model.modules() if isinstance(module, Linear4bit)]


def settle(model: nn.Module) -> None:
    """Keep packed weights as they are: on some CPUs an evaluation would pack them once more for inference alone.

    Raises:
        UserError: the model has no layers that can be packed.
    """
    layers = packed_layers(model)
    if not layers or any(isinstance(module, Conv1D) for module in model.modules()):
        raise UserError(
            f"backbone.quantize: 4bit does not pack the layers of {type(model).__name__}: set backbone.quantize=null"
        )
    for layer in layers:
        layer.support_avx512bf16_for_cpu = False
    compute_in(model, torch.float32)


def compute_in(model: nn.Module, dtype: torch.dtype) -> None:
    """Compute the products with packed weights in `dtype`; biases take it too, as a first forward would make them."""
    for layer in packed_layers(model):
        layer.compute_dtype, layer.compute_type_is_set = dtype, True
        if layer.bias is not None:
            layer.bias.data = layer.bias.data.to(dtype)


def serving_quantization(quantize: str | None) -> dict[str, Any] | None:
    """What serving.json says of the base: arguments of BitsAndBytesConfig, or None for a base in full."""
    return None if quantize is None else {**NF4, "llm_int8_skip_modules": ["score", "lm_head", "pooler"]}
