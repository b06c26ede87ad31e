"""One full checkpoint per objective, its adapter merged into the base: for servers without LoRA."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from equipoise.common.errors import UserError
from equipoise.export.adapter_folder import POINT_HEAD, SLATE_HEAD
from equipoise.export.golden_check import load_adapter
from equipoise.modeling.adapters import adapter_of
from equipoise.modeling.model import SlateModel

FOLDER = "merged"
DTYPES = {"float32": 1e-4, "bfloat16": 0.05}
"""dtype → how far a checkpoint's logits may be from the golden ones (absolute below 1, relative above)."""


def refuse_merged(scope: str, quantized: bool) -> None:
    """Refuse runs whose merged checkpoints would give other scores.

    Raises:
        UserError: says which setting forbids it, and the ways out.
    """
    if scope == "candidates":
        raise UserError(
            "--format merged: these adapters act on candidate tokens alone (lora.scope: candidates), merged they would "
            "also change the prefix: serve the export with `equipoise serve`, use alora/ (decoders) or --format onnx "
            "(encoders), or train with lora.scope=all"
        )
    if quantized:
        raise UserError(
            "--format merged: the adapters were trained on a base packed to 4 bits, and merged into the base in full "
            "they give other scores: serve the peft format on the packed base, or train without backbone.quantize"
        )


def merged_bytes(model: SlateModel, dtype: str) -> int:
    """Size of all checkpoints, from the base's parameters; heads and tokenizers add a little."""
    base = sum(p.numel() for name, p in model.backbone.named_parameters() if adapter_of(name) is None)
    return base * getattr(torch, dtype).itemsize * len(model.objectives)


def need_room(folder: Path, size: int) -> None:
    """Refuse before anything large is written.

    Args:
        folder: an existing one on the disk in question.
        size: bytes that will be written.

    Raises:
        UserError: the disk has less room.
    """
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"--format merged: the checkpoints take about {size / 2**30:.1f} GiB, {folder} has {free / 2**30:.1f} GiB: "
            "make room, export elsewhere, or add --dtype bfloat16"
        )


def write_merged(folder: Path, serving: dict[str, Any], dtype: str, objectives: Iterable[str]) -> dict[str, Any]:
    """Write `folder`/merged/NAME for every objective; returns the entry in serving.json.

    Args:
        folder: of the export, its adapters already written.
        serving: the content of serving.json.
        dtype: of the weights, a key of DTYPES; merging itself is done in float32.
        objectives: their names.
    """
    for name in objectives:
        about = serving["objectives"][name]
        target = folder / FOLDER / name
        model = load_adapter(folder, serving, name).merge_and_unload(safe_merge=True)
        if getattr(model, "pooler", None) is not None:
            model.pooler = None  # the stock pooler is not read
        if "logit_offset" in about:
            model.config.logit_offset = about["logit_offset"]  # no stock class adds it: a note for who serves
        model.to(getattr(torch, dtype)).save_pretrained(target)
        shutil.copytree(folder / serving["tokenizer"]["path"], target, dirs_exist_ok=True)
        for head in (POINT_HEAD, SLATE_HEAD):
            if (folder / about["folder"] / head).is_file():
                shutil.copyfile(folder / about["folder"] / head, target / head)
    return {"folder": FOLDER, "dtype": dtype, "tolerance": DTYPES[dtype]}
