"""The formats of an export: which are asked for, which a run can have, and writing those beyond plain adapters."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from equipoise.common.errors import UserError
from equipoise.configs.schema import RunConfig
from equipoise.export.activated import why_not_activated, write_activated
from equipoise.export.merged import DTYPES, merged_bytes, need_room, refuse_merged, write_merged
from equipoise.export.onnx_graph import INT8, refuse_onnx, write_graph, write_int8
from equipoise.export.onnx_report import measure_graphs
from equipoise.export.served import ServedClass
from equipoise.export.vllm_rules import check_adapter, why_not_vllm
from equipoise.modeling.backbone import is_encoder, load_model_config
from equipoise.modeling.model import SlateModel

NAMES = ("peft", "merged", "onnx")


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
        asked = [name.strip() for name in names.split(",")]
        unknown = next((name for name in asked if name not in NAMES), None)
        if unknown is not None:
            raise UserError(f"--format: '{unknown}' is none of {', '.join(NAMES)}: correct it")
        if dtype not in DTYPES:
            raise UserError(f"--dtype: '{dtype}' is none of {', '.join(DTYPES)}: correct it")
        for option, given, format_ in (("--dtype", dtype != "float32", "merged"), ("--int8", int8, "onnx")):
            if given and format_ not in asked:
                raise UserError(f"{option} belongs to --format {format_}: add it, or leave {option} out")
        return cls("merged" in asked, "onnx" in asked, dtype, int8)

    def check(self, config: RunConfig) -> None:
        """Refuse what the run cannot have, before any model is loaded.

        Raises:
            UserError: names the format, the reason and the way out.
        """
        quantized = config.backbone.quantize is not None
        if self.merged:
            refuse_merged(config.lora.scope, quantized)
        if self.onnx:
            refuse_onnx(is_encoder(load_model_config(config.backbone)), quantized)

    def need_room(self, model: SlateModel, folder: Path, console: Console) -> None:
        """Say how much merged checkpoints will take, before any is written.

        Raises:
            UserError: the disk has no room for them.
        """
        if not self.merged:
            return
        size = merged_bytes(model, self.dtype)
        console.print(f"merged checkpoints will take about {size / 2**20:,.0f} MiB in {self.dtype}")
        need_room(folder, size)


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
        why = why_not_vllm(served[name].form, config.lora.scope, backbone.config.model_type, backbone.encoder, features)
        rank = None if why else check_adapter(folder / name, served[name].layers_name)
        verdicts[name] = {"serves": why is None, "why_not": why, "max_lora_rank": rank}
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
        invocation: token ids that stand for the place where activated adapters begin.
    """
    entries: dict[str, Any] = {}
    scope, quantized = config.lora.scope, config.backbone.quantize is not None
    if scope == "candidates" and why_not_activated(scope, model.backbone.encoder, quantized) is None:
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
