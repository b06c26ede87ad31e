"""A base packed to 4 bits (nf4, double quantisation) by bitsandbytes, as in QLoRA (Dettmers et al., 2023)."""

import importlib.util
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from configs.errors import UserError

NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
"""Arguments of BitsAndBytesConfig, all but the dtype in which products are computed."""


def require_bitsandbytes() -> None:
    """Refuse to go on without the package that packs.

    Raises:
        UserError: bitsandbytes is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("backbone.quantize: 4bit needs its package: run `pip install 'equipoise[quantized]'`")


def quantization_config(dtype: torch.dtype) -> BitsAndBytesConfig:
    """For from_pretrained, which packs while it loads; products are computed in `dtype`.

    Raises:
        UserError: bitsandbytes is not installed.
    """
    require_bitsandbytes()
    return BitsAndBytesConfig(**NF4, bnb_4bit_compute_dtype=dtype)


def pack(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Pack the linear layers of a model that is already built, in place; products are computed in `dtype`.

    Raises:
        UserError: bitsandbytes is not installed, or the layers are none that it packs.
    """
    require_bitsandbytes()
    from bitsandbytes.nn import Linear4bit, Params4bit

    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Conv1D):
                raise UserError("backbone.quantize: 4bit packs no Conv1D layers (GPT-2): set backbone.quantize=null")
            if not isinstance(child, nn.Linear):
                continue
            packed = Linear4bit(
                child.in_features, child.out_features, child.bias is not None, dtype, quant_type="nf4", device="meta"
            )
            device = child.weight.device
            packed.weight = Params4bit(child.weight.data, quant_type="nf4", module=packed).to(device)
            if child.bias is not None:
                packed.bias = nn.Parameter(child.bias.data, requires_grad=False)
            setattr(parent, name, packed)
    return settle(model, dtype)


def settle(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Keep packed layers as they are: biases in the dtype of their products, to which a forward would turn them, and no
    second packing of the weights for inference on some CPUs, after which none could be trained through."""
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
            if module.bias is not None:
                module.bias.data = module.bias.data.to(dtype)
    return model


def is_packed(module: nn.Module) -> bool:
    """Whether a module is a linear layer of packed weights."""
    return getattr(getattr(module, "weight", None), "quant_state", None) is not None


def serving_quantization(quantize: str | None) -> dict[str, Any] | None:
    """What serving.json says of the base: arguments of BitsAndBytesConfig, or None for a base in full."""
    return None if quantize is None else {**NF4, "bnb_4bit_compute_dtype": "float32"}
