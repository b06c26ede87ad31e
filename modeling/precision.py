"""In which precision a machine computes: bfloat16 where it multiplies in it, float32 elsewhere."""

import os
from contextlib import AbstractContextManager
from typing import Literal, cast

import torch

from equipoise.configs.schema import RunConfig
from equipoise.modeling.model import SlateModel
from equipoise.modeling.quantized import compute_in

Precision = Literal["fp32", "bf16"]
CPU_BF16 = ("avx512_bf16", "amx_bf16", "bf16")
"""Instructions that multiply in bfloat16, by the names of torch.cpu.get_capabilities; x86 and Arm."""


def device_type() -> str:
    """Where a command computes: `cuda` where there is a card and the launcher does not ask for the CPU."""
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("true", "1", "yes")
    return "cuda" if torch.cuda.is_available() and not on_cpu else "cpu"


def multiplies_in_bf16(device: str) -> bool:
    """Whether a device's own instructions multiply in bfloat16; elsewhere it is slower than float32.

    Args:
        device: torch's name of its type.
    """
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device != "cpu":
        return False
    found = torch.cpu.get_capabilities()
    return any(found.get(name) for name in CPU_BF16)


def settled(wanted: str, device: str) -> Precision:
    """`auto` as `bf16` or `fp32`, by what the device has; other values as they are."""
    if wanted != "auto":
        return cast(Precision, wanted)
    return "bf16" if multiplies_in_bf16(device) else "fp32"


def settle_precision(config: RunConfig, begun: RunConfig | None = None) -> RunConfig:
    """A configuration without `auto` in `train.precision` and `backbone.dtype`.

    Args:
        config: of the run.
        begun: what the run began with, which `auto` follows where it goes on; None asks the machine.
    """
    precision: str = config.train.precision
    dtype: str = config.backbone.dtype
    if precision == "auto":
        precision = begun.train.precision if begun is not None else settled(precision, device_type())
    if dtype == "auto" and begun is not None:
        dtype = begun.backbone.dtype
    elif dtype == "auto":
        # Random weights are drawn in their own dtype, which the vectors of frozen texts have to share.
        narrow = precision == "bf16" and config.backbone.init == "pretrained" and config.backbone.quantize is None
        dtype = "bfloat16" if narrow else "float32"
    train = config.train.model_copy(update={"precision": precision})
    return config.model_copy(update={"train": train, "backbone": config.backbone.model_copy(update={"dtype": dtype})})


def computing(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """A context in which a model computes in `bf16` or `fp32`, as training does."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def narrow_base(model: SlateModel, packed: bool = False) -> None:
    """Put the base of a model that no longer trains into bfloat16, in place; adapters and heads stay float32.

    Args:
        model: in evaluation form.
        packed: its base is quantized; it stays so, and its products are computed in bfloat16.
    """
    for name, parameter in model.backbone.named_parameters():
        if ".lora_" not in name and parameter.is_floating_point():
            parameter.data = parameter.data.to(torch.bfloat16)
    if packed:
        compute_in(model, torch.bfloat16)
