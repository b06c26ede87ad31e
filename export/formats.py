"""The formats of an export beyond plain adapters: which are asked for, which a run can have, and writing them.

Merged: one full checkpoint per objective, its adapter merged into the base, for servers without LoRA.

alora: the activated-LoRA form (Greenewald et al. 2025, arXiv 2504.12397) of decoders trained with `lora.scope:
candidates`. `alora/shared` is ordinary LoRA in the layers below the split, meant to be merged into the base;
`alora/NAME` is PEFT's activated LoRA in the layers above it, which acts from `alora_offsets` tokens before the end of
a prompt on: called with the number of the candidate's tokens it is exactly what was trained.
"""

import logging
import shutil
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import TaskType
from safetensors.torch import save_file

from equipoise.common.errors import UserError
from equipoise.configs.schema import LoraConfig, RunConfig
from equipoise.export.adapters import (
    PEFT_PREFIX,
    POINT_HEAD,
    SLATE_HEAD,
    ServedClass,
    lora_tensors,
    rank_patterns,
    write_config,
    write_heads,
)
from equipoise.export.golden_check import load_adapter
from equipoise.export.onnx import INT8, refuse_onnx, write_graph, write_int8
from equipoise.export.onnx_check import measure_graphs
from equipoise.export.sglang_rules import why_not_sglang
from equipoise.export.vllm_rules import check_adapter, why_not_vllm
from equipoise.modeling.adapters import SHARED, adapter_of
from equipoise.modeling.base_config import is_encoder, load_model_config
from equipoise.modeling.model import SlateModel

log = logging.getLogger(__name__)
NAMES = ("peft", "merged", "onnx")
APART = "backbone.trunk: apart; below the split stock classes show candidates their prefix"
MERGED, ACTIVATED = "merged", "alora"
"""Folders in an export."""

DTYPES = {"float32": 1e-4, "bfloat16": 0.05}
"""dtype → how far a checkpoint's logits may be from the golden ones (absolute below 1, relative above)."""


@dataclass(frozen=True)
class Formats:
    """What to write; the adapters (`peft`) are always there, for the golden check and our own server read them.

    Attributes:
        merged: a full checkpoint per objective.
        onnx: one graph of all objectives.
        dtype: of the merged checkpoints.
        int8: also a quantised graph.
    """

    merged: bool = False
    onnx: bool = False
    dtype: str = "float32"
    int8: bool = False

    @classmethod
    def parse(cls, names: str, dtype: str = "float32", int8: bool = False) -> "Formats":
        """From the command line: comma-separated names.

        Raises:
            UserError: a name is unknown, or an option belongs to a format that is not asked for.
        """
        names_given = [name.strip() for name in names.split(",")]
        unknown = next((name for name in names_given if name not in NAMES), None)
        if unknown is not None:
            raise UserError(f"--format: '{unknown}' is none of {', '.join(NAMES)}: correct it")
        if dtype not in DTYPES:
            raise UserError(f"--dtype: '{dtype}' is none of {', '.join(DTYPES)}: correct it")
        for option, given, format_ in (("--dtype", dtype != "float32", "merged"), ("--int8", int8, "onnx")):
            if given and format_ not in names_given:
                raise UserError(f"{option} belongs to --format {format_}: add it, or leave {option} out")
        return cls("merged" in names_given, "onnx" in names_given, dtype, int8)

    def check(self, config: RunConfig) -> None:
        """Refuse what the run cannot have, before any model is loaded.

        Raises:
            UserError: names the format, the reason and the way out.
        """
        quantized = config.backbone.quantize is not None
        if self.merged:
            refuse_merged(config.lora.scope, quantized, config.backbone.trunk)
        if self.onnx:
            refuse_onnx(is_encoder(load_model_config(config.backbone)), quantized)

    def check_disk_space(self, model: SlateModel, folder: Path) -> None:
        """Say how much merged checkpoints will take, before any is written.

        Raises:
            UserError: the disk has no room for them.
        """
        if not self.merged:
            return
        size = merged_bytes(model, self.dtype)
        log.info(f"merged checkpoints will take about {size / 2**20:,.0f} MiB in {self.dtype}")
        require_disk_space(folder, size)


def judge_for_vllm(
    config: RunConfig, model: SlateModel, served: Mapping[str, ServedClass], folder: Path
) -> dict[str, Any]:
    """Per objective whether vLLM can serve its adapter, and if not, why; part of serving.json.

    Raises:
        UserError: an adapter that vLLM could serve breaks one of its loader's rules.
    """
    verdicts: dict[str, Any] = {}
    for name in model.objectives:
        backbone, features = model.backbone, model.features.features if name in model.pointwise else []
        beside = ["its prior's log-odds"] if name in model.priors else []
        beside += ["a comparison with the history"] if model.compares and name in model.pointwise else []
        kind = (served[name].form, config.lora.scope, backbone.config.model_type, backbone.encoder)
        why = APART if backbone.apart else why_not_vllm(*kind, features, beside, several_ranks=bool(config.lora.ranks))
        rank = None if why else check_adapter(folder / name, served[name].layers_name)
        verdicts[name] = {"serves": why is None, "why_not": why, "max_lora_rank": rank}
    return verdicts


def judge_for_sglang(config: RunConfig, model: SlateModel, served: Mapping[str, ServedClass]) -> dict[str, Any]:
    """Per objective whether SGLang scores slates by its merged checkpoint, and if not, why; part of serving.json."""
    base, quantized = model.backbone, config.backbone.quantize is not None
    verdicts = {}
    for name in model.objectives:
        beside = [*(["features"] if model.features.features and name in model.pointwise else [])]
        beside += ["its prior's log-odds"] if name in model.priors else []
        beside += ["a comparison with the history"] if model.compares and name in model.pointwise else []
        kind = (served[name].form, config.lora.scope, base.config, base.encoder)
        why = APART if base.apart else why_not_sglang(*kind, beside, quantized)
        verdicts[name] = {"serves": why is None, "why_not": why}
    return verdicts


def write_from_model(
    formats: Formats,
    config: RunConfig,
    model: SlateModel,
    served: Mapping[str, ServedClass],
    folder: Path,
    base: tuple[str, str | None],
    invocation: list[int],
) -> dict[str, Any]:
    """Write the formats that are made from the trained model; returns their entries in serving.json.

    Args:
        formats: what is asked for.
        config: the run's config.
        model: the trained model in float32, on the CPU.
        served: per objective the stock class that carries it.
        folder: of the export.
        base: path and revision for adapter_config.json.
        invocation: token ids that mark where activated adapters begin.
    """
    entries: dict[str, Any] = {}
    scope, quantized = config.lora.scope, config.backbone.quantize is not None
    flat = model.upper.flattens
    why_not = why_not_activated(scope, model.backbone.encoder, quantized, flat, config.backbone.trunk)
    if scope == "candidates" and why_not is None:
        entries["alora"] = write_activated(folder, model, served, config.lora, *base, invocation)
    if formats.onnx:
        entries["onnx"] = write_graph(folder, model)
        if formats.int8:
            write_int8(folder)
            entries["onnx"]["int8"] = INT8
        measure_graphs(config, model, folder, formats.int8)
    return entries


def write_from_adapters(formats: Formats, folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Write the formats that are made from the written adapters, the trained model being gone; as above."""
    if not formats.merged:
        return {}
    return {"merged": write_merged(folder, record, formats.dtype, record["objectives"])}


def refuse_merged(scope: str, quantized: bool, trunk: str = "joint") -> None:
    """Refuse runs whose merged checkpoints would give other scores.

    Raises:
        UserError: says which setting forbids it, and the ways out.
    """
    if trunk == "apart":
        raise UserError(f"--format merged: {APART}: serve the export with `equipoise serve`, or train with trunk=joint")
    if scope == "candidates":
        raise UserError(
            "--format merged: these adapters act on candidate tokens alone (lora.scope: candidates), merged they would "
            "also change the prefix: serve the export with `equipoise serve`, use alora/ (decoders) or --format onnx "
            "(encoders), or train with lora.scope=all"
        )
    if quantized:
        raise UserError(
            "--format merged: the adapters were trained on a base quantized to 4 bits, and merged into the full base "
            "they give other scores: serve the peft format on the quantized base, or train without backbone.quantize"
        )


def merged_bytes(model: SlateModel, dtype: str) -> int:
    """Size of all checkpoints, from the base's parameters; heads and tokenizers add a little."""
    base = sum(p.numel() for name, p in model.backbone.named_parameters() if adapter_of(name) is None)
    return base * getattr(torch, dtype).itemsize * len(model.objectives)


def require_disk_space(folder: Path, size: int) -> None:
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
        target = folder / MERGED / name
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
    return {"folder": MERGED, "dtype": dtype, "tolerance": DTYPES[dtype]}


def why_not_activated(
    scope: str, encoder: bool, quantized: bool, flattens: bool = False, trunk: str = "joint"
) -> str | None:
    """Why a run has no activated form, where that is worth a sentence; None where it has one, or needs none.

    `flattens`: modules with adapters see the tokens of all rows in one line, as in OPT and mixtures of experts.
    """
    if scope == "all":
        return None
    if encoder:
        return "activated LoRA counts tokens from the end of a causal prompt, so encoders have no such form"
    if trunk == "apart":
        return APART
    if quantized:
        return "activated LoRA needs the shared adapter merged into the base, which a base quantized to 4 bits refuses"
    if flattens:
        return "PEFT's activated LoRA counts tokens in rows, and modules of this base see those of all rows in one line"
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
    _write_adapter(folder / ACTIVATED / SHARED, model, SHARED, carrier, lora, base, revision, None)
    for name in model.objectives:
        _write_adapter(folder / ACTIVATED / name, model, name, served[name], lora, base, revision, invocation)
    return {
        "folder": ACTIVATED,
        "shared": f"{ACTIVATED}/{SHARED}",
        "shared_form": carrier.form,
        "invocation_tokens": invocation,
        "call": "alora_offsets = [number of the candidate's tokens, with what follows it in the row]",
    }


def _write_adapter(
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
        head_inside, _ = write_heads(folder, model, adapter, served)
        tensors |= head_inside
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings: dict[str, Any] = {"target_modules": modules, "alora_invocation_tokens": invocation}
    settings |= rank_patterns(tensors, lora)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="aLoRA is currently only supported for CAUSAL_LM")  # offsets are ours
        task_type = TaskType.SEQ_CLS if classified else TaskType.FEATURE_EXTRACTION
        write_config(folder, served, lora, task_type, base, revision, **settings)
