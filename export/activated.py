"""The activated-LoRA form (Greenewald et al. 2025, arXiv 2504.12397) of decoders trained with `lora.scope: candidates`.

`alora/shared` is ordinary LoRA in the layers below the split, meant to be merged into the base; `alora/NAME` is PEFT's
activated LoRA in the layers above it, which acts from `alora_offsets` tokens before the end of a prompt on: called with
the number of the candidate's tokens it is exactly what was trained.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import TaskType
from safetensors.torch import save_file

from equipoise.configs.schema import LoraConfig
from equipoise.export.adapter_folder import PEFT_PREFIX, lora_tensors, write_config, write_heads
from equipoise.export.served import ServedClass
from equipoise.modeling.adapters import SHARED
from equipoise.modeling.model import SlateModel

FOLDER = "alora"


def why_not_activated(scope: str, encoder: bool, quantized: bool) -> str | None:
    """Why a run has no activated form, where that is worth a sentence; None where it has one, or needs none."""
    if scope == "all":
        return None
    if encoder:
        return "activated LoRA counts tokens from the end of a causal prompt, so encoders have no such form"
    if quantized:
        return "activated LoRA needs the shared adapter merged into the base, which a base packed to 4 bits refuses"
    return None


def write_activated(
    folder: Path,
    model: SlateModel,
    served: Mapping[str, ServedClass],
    lora: LoraConfig,
    base: str,
    revision: str | None,
    invocation: list[int],
) -> dict[str, Any]:
    """Write `folder`/alora; returns its entry in serving.json.

    Args:
        folder: of the export.
        model: the trained model, a decoder.
        served: per objective the stock class that carries it.
        lora: the adapters' settings in the run.
        base, revision: for adapter_config.json.
        invocation: token ids for `alora_invocation_tokens`, which switches the activated form on.
    """
    # One class for the shared adapter: the bare model inside a classifier serves the list-wise objectives.
    carrier = served[model.pointwise[0]]
    _write(folder / FOLDER / SHARED, model, SHARED, carrier, lora, base, revision, None)
    for name in model.objectives:
        _write(folder / FOLDER / name, model, name, served[name], lora, base, revision, invocation)
    return {
        "folder": FOLDER,
        "shared": f"{FOLDER}/{SHARED}",
        "shared_form": carrier.form,
        "invocation_tokens": invocation,
        "call": "alora_offsets = [number of the candidate's tokens, with what follows it in the row]",
    }


def _write(
    folder: Path,
    model: SlateModel,
    adapter: str,
    served: ServedClass,
    lora: LoraConfig,
    base: str,
    revision: str | None,
    invocation: list[int] | None,
) -> None:
    folder.mkdir(parents=True)
    tensors = lora_tensors(model, adapter, served.layers_name, alone=True)
    modules = sorted({key.removeprefix(PEFT_PREFIX).rpartition(".lora_")[0] for key in tensors})
    # PEFT gives every SEQ_CLS adapter a head of its own, which the shared one has not.
    classified = served.form == "sequence_classification" and adapter != SHARED
    if adapter != SHARED:
        inside, _ = write_heads(folder, model, adapter, served)
        tensors |= inside
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings: dict[str, Any] = {"target_modules": modules, "alora_invocation_tokens": invocation}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="aLoRA is currently only supported for CAUSAL_LM")  # offsets are ours
        task_type = TaskType.SEQ_CLS if classified else TaskType.FEATURE_EXTRACTION
        write_config(folder, served, lora, task_type, base, revision, **settings)
