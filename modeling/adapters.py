"""LoRA adapters in disjoint layers: `shared` below the split, one per objective above it."""

import re
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from equipoise.common.errors import UserError
from equipoise.configs.schema import LoraConfig
from equipoise.modeling.backbone import find_layers

SHARED = "shared"
ATTENTION_WORDS = ("query", "key", "value", "q_proj", "k_proj", "v_proj", "c_attn", "qkv", "wqkv", "query_key_value")


def target_modules(layer: nn.Module, targets: str | list[str]) -> list[str]:
    """Names, inside one layer, of the linear modules that get an adapter.

    Raises:
        UserError: a named module is no linear module of the layer, or none is found.
    """
    linear = [name for name, module in layer.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    if targets == "all-linear":
        chosen = linear
    elif targets == "attention":
        chosen = [name for name in linear if name.rpartition(".")[2].lower() in ATTENTION_WORDS]
    else:
        chosen = [name for name in linear if name in targets or name.rpartition(".")[2] in targets]
        unknown = [target for target in targets if not any(n == target or n.endswith(f".{target}") for n in linear)]
        if unknown:
            raise UserError(
                f"lora.targets: '{unknown[0]}' is no linear module of a layer: choose from {', '.join(linear)}"
            )
    if not chosen:
        raise UserError(f"lora.targets: '{targets}' matches no module of a layer: choose from {', '.join(linear)}")
    return chosen


def lora_config(lora: LoraConfig, **settings: Any) -> PeftLoraConfig:
    """PEFT's config of one adapter; a new object each time, for PEFT changes the one it is given."""
    return PeftLoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_rslora=lora.rslora,
        bias="none",
        **settings,
    )


def inject_adapters(model: nn.Module, split: int, objectives: Iterable[str], lora: LoraConfig) -> None:
    """Put the `shared` adapter into layers 0 … split−1 and one adapter per objective into the layers above.

    Adapter weights are float32 and trainable; all else is frozen.

    Raises:
        UserError: the split leaves no layer below or above it.
    """
    layers_name, layers = find_layers(model)
    if not 1 <= split < len(layers):
        raise UserError(f"backbone.split: {split} must lie between 1 and {len(layers) - 1} for this backbone")
    modules = target_modules(layers[0], lora.targets)
    transposed = isinstance(layers[0].get_submodule(modules[0]), Conv1D)  # asked before PEFT wraps it
    for name in (SHARED, *objectives):
        numbers = range(split) if name == SHARED else range(split, len(layers))
        layer = rf"{re.escape(layers_name)}\.({'|'.join(map(str, numbers))})"
        targets = rf"{layer}\.({'|'.join(map(re.escape, modules))})"
        peft_config = lora_config(lora, target_modules=targets, fan_in_fan_out=transposed)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # several adapters are meant
            inject_adapter_in_model(peft_config, model, adapter_name=name)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()
    for module in model.modules():
        if isinstance(module, LoraLayer) and SHARED in module.lora_A:
            activate(module, SHARED)


def activate(module: LoraLayer, adapter: str | None) -> None:
    """Switch one LoRA layer to an adapter, or to none, without touching `requires_grad`, as `set_adapter` would."""
    module._active_adapter = [] if adapter is None else [adapter]


def lora_layers(module: nn.Module) -> list[LoraLayer]:
    """All LoRA layers inside a module."""
    return [child for child in module.modules() if isinstance(child, LoraLayer)]


def adapter_of(parameter_name: str) -> str | None:
    """The adapter that a LoRA parameter belongs to (`….lora_A.ctr.weight` → `ctr`); None for other parameters."""
    match = re.search(r"\.lora_[AB]\.([^.]+)\.weight$", parameter_name)
    return match.group(1) if match else None
