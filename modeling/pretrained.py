"""The pretrained weights of a base model: all of them, whole, and nothing beside them."""

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModel
from transformers.utils import logging as transformers_logging

from equipoise.common.errors import UserError
from equipoise.configs.schema import BackboneConfig
from equipoise.modeling.base_files import resolve_path
from equipoise.modeling.quantized import quantization_config

LOADING = (
    *(OSError, ValueError, KeyError, EOFError, RuntimeError, SafetensorError, pickle.UnpicklingError),
    *(AttributeError, ImportError, NotImplementedError, TypeError),  # of architectures that trip transformers
)
"""What loading broken files, or odd architectures, raises."""
NEVER_READ = ("pooler.",)
"""Beginnings of weights that a base may lack."""


class _Quiet:
    """Keeps transformers' warnings back, and its bar of weights that are on this machine already.

    Args:
        warns: whether warnings are shown all the same.
        bar: whether bars are, as of what is to be downloaded.
    """

    def __init__(self, warns: bool, bar: bool) -> None:
        self._warns, self._bar = warns, bar

    def __enter__(self) -> None:
        self._before = transformers_logging.get_verbosity()
        self._bar_before = transformers_logging.is_progress_bar_enabled()
        if not self._warns:
            transformers_logging.set_verbosity_error()
        if not self._bar:
            transformers_logging.disable_progress_bar()

    def __exit__(self, *error: object) -> None:
        transformers_logging.set_verbosity(self._before)
        if self._bar_before and not self._bar:
            transformers_logging.enable_progress_bar()


def load_pretrained(backbone: BackboneConfig, config: Any, dtype: torch.dtype, attention: str) -> nn.Module:
    """The base model without any head, filled from its files.

    Args:
        backbone: which base.
        config: its Hugging Face config.
        dtype: of the weights.
        attention: transformers' name of the implementation.

    Raises:
        UserError: a file is missing, cut short or broken, weights are missing, or an adapter lies beside them.
    """
    path = resolve_path(backbone.path)
    packing = {"quantization_config": quantization_config()} if backbone.quantize else {}
    try:
        # With fewer layers the report would name each one that is left out.
        with _Quiet(warns=not backbone.layers, bar=not Path(path).exists()):
            model, report = AutoModel.from_pretrained(
                path,
                config=config,
                revision=backbone.revision,
                dtype=dtype,
                attn_implementation=attention,
                output_loading_info=True,
                **packing,
            )
    except LOADING as error:
        if _is_no_fault_of_files(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")
        raise UserError(
            f"backbone.path: the weights in '{path}' cannot be loaded ({reason}): restore the files, or name another"
        ) from error
    _refuse_incomplete(path, report["missing_keys"])
    if getattr(model, "_hf_peft_config_loaded", False):
        raise UserError(
            f"backbone.path: '{path}' holds a PEFT adapter (adapter_config.json) beside its weights, which would be "
            "trained on top of silently: merge it into the weights, or move its files away"
        )
    return model


def _is_no_fault_of_files(error: Exception) -> bool:
    """Memory that has run out, and what CUDA says: neither is mended by other files."""
    if not isinstance(error, RuntimeError):
        return False
    words = ("allocate memory", "DefaultCPUAllocator", "CUDA")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


def _refuse_incomplete(path: str, missing_keys: Any) -> None:
    missing = sorted(key for key in missing_keys if not key.startswith(NEVER_READ))
    if missing:
        raise UserError(
            f"backbone.path: '{path}' lacks {len(missing)} weights, such as {missing[0]}, which would stay random: "
            "restore its files, or name another base"
        )
