"""Loads an export back into a slate model: the inverse of equipoise.export.adapters.

All objectives share one base, one trunk and one forward again, instead of one PEFT model each.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from equipoise.common.errors import UserError
from equipoise.common.hashing import file_hash
from equipoise.configs.schema import BackboneConfig, LoraConfig
from equipoise.data.features import columns_of, read_scales
from equipoise.data.thing_columns import Rivals
from equipoise.export.adapters import PEFT_PREFIX, POINT_HEAD, SLATE_HEAD, VECTOR_HEAD
from equipoise.export.files import open_record, readable, refuse_other_base
from equipoise.export.serving_record import TOKENIZER_FOLDER
from equipoise.modeling.adapter_store import copy_into
from equipoise.modeling.adapters import SHARED
from equipoise.modeling.base_config import config_hash, load_model_config
from equipoise.modeling.base_files import resolve_path
from equipoise.modeling.beside_text import BesideText, Things
from equipoise.modeling.comparison import ComparisonShape
from equipoise.modeling.frozen_text import FrozenText
from equipoise.modeling.heads import as_named_now
from equipoise.modeling.model import ModelSpec, SlateModel, build_model
from equipoise.modeling.priors import Priors
from equipoise.modeling.quantized import compute_in
from equipoise.modeling.relevance import Relevance

_KEY = re.compile(rf"{re.escape(PEFT_PREFIX)}(?:[^.]*[^.\d][^.]*\.)*(\d+)\.(.+)\.(lora_[AB])\.weight")
_SCORE = f"{PEFT_PREFIX}score.weight"
HEADS = {"pointwise": POINT_HEAD, "listwise": SLATE_HEAD, "retrieval": VECTOR_HEAD}
_SHAPE_FIELDS = {"r": "rank", "lora_alpha": "alpha", "lora_dropout": "dropout", "use_rslora": "rslora"}


def load_export(folder: Path, record: Mapping[str, Any] | None = None) -> SlateModel:
    """The exported model on the CPU, frozen, in evaluation form, with one output per pointwise head.

    Args:
        folder: what `equipoise export` wrote.
        record: its serving.json, from `export.files.open_record`; None reads it.

    Raises:
        UserError: the folder is no export, a file of it is missing or broken, the model has no such tensor, or
            the base model is not the one that the adapters belong to.
    """
    record = open_record(folder) if record is None else record
    with readable(folder, record):
        return _load(folder, record)


def _load(folder: Path, record: Mapping[str, Any]) -> SlateModel:
    objectives: Mapping[str, Mapping[str, Any]] = record["objectives"]
    searching: Mapping[str, Mapping[str, Any]] = record.get("retrieval", {})
    backbone = _backbone(folder, record)
    lora, adapters = _adapters(folder, {**objectives, **searching}, record["scope"], record.get("adapter_shape"))
    tensors = _named_tensors(folder, {**objectives, **searching}, adapters, record["split"])
    pointwise = {name: 1 for name, about in objectives.items() if about["kind"] == "pointwise"}
    listwise = [name for name in objectives if name not in pointwise]
    offsets = {name: float(objectives[name]["logit_offset"]) for name in pointwise}
    features = columns_of(read_scales(record.get("features", {})))
    retrieval = {name: int(about["dimension"]) for name, about in searching.items()}
    compared = record.get("comparison")
    spec = ModelSpec(
        backbone,
        lora,
        pointwise,
        listwise,
        offsets,
        features=features,
        retrieval=retrieval,
        relevance=Relevance.read(record.get("relevance_exponents", {}), objectives, pointwise),
        priors=list(record.get("priors", {}).get("objectives", {})),
        comparison=ComparisonShape(compared["vectors"], compared["width"]) if compared else None,
    )
    model = build_model(spec)
    layers = f"backbone.trunk.{model.backbone.layers_name}."
    named = {name.replace("TRUNK.", layers, 1): x for name, x in as_named_now(tensors, retrieval).items()}
    try:
        copy_into(model, named, str(folder))
    except UserError as error:
        raise UserError(f"{folder} lacks tensors or has strange ones, export the run again: {error}") from error
    if backbone.quantize:
        compute_in(model, torch.float32)
    return model.requires_grad_(False).eval()


def open_beside_text(
    folder: Path, record: Mapping[str, Any], backbone: BackboneConfig | None = None, device: str = "cpu"
) -> BesideText | None:
    """What heads read of a request beside its prompts; None where the export has no prior and compares nothing.

    Args:
        folder: of the export.
        record: its serving.json, or those parts of it.
        backbone: its base; None reads it from the record, without comparing fingerprints, as `load_export` does.
        device: on which the vectors of texts that the export does not hold are made.

    Raises:
        UserError: a file is missing, broken, or not the one that was exported.
    """
    own_priors, compared = record.get("priors"), record.get("comparison")
    if not own_priors and not compared:
        return None
    for name, about in (own_priors or {}).get("objectives", {}).items():
        if about["file"] and file_hash(folder / about["file"]) != about["sha256"]:
            raise UserError(f"{folder / about['file']} is not the prior of {name} that was exported: export again")
    things = None
    if compared:
        held = compared.get("rivals")  # exports of earlier versions have none
        rivals = Rivals.read(folder / held) if held else None
        frozen = frozen_text(folder, record, backbone, device)
        things = Things.read(folder, compared["max_events"], frozen, rivals=rivals)
    priors = Priors.read(folder / own_priors["folder"]) if own_priors else None
    return BesideText(list(record["features"]), priors, things)


def frozen_text(
    folder: Path, record: Mapping[str, Any], backbone: BackboneConfig | None = None, device: str = "cpu"
) -> FrozenText:
    """The frozen base of an export, as it makes vectors of texts; arguments as those of `open_beside_text`."""
    backbone = backbone or _configured(folder, record)
    return FrozenText(backbone.model_copy(update={"tokenizer": str(folder / TOKENIZER_FOLDER)}), device=device)


def _backbone(folder: Path, record: Mapping[str, Any]) -> BackboneConfig:
    """The base as the golden logits were made with it, after its fingerprints have been compared."""
    base, backbone = record["base"], _configured(folder, record)
    base_hash = config_hash(load_model_config(backbone))
    if base_hash != base["config_hash"]:
        raise UserError(
            f"{folder} belongs to another base model than {backbone.path} (fingerprint {base['config_hash']}, there "
            f"{base_hash}): put the right model there"
        )
    refuse_other_base(folder, base, backbone)
    return backbone


def _configured(folder: Path, record: Mapping[str, Any]) -> BackboneConfig:
    base = record["base"]
    return BackboneConfig(
        path=_base_path(folder, base),
        revision=base["revision"],
        split=record["split"],
        trunk=record.get("trunk", "joint"),
        pooling=record["pooling"],
        attention=record.get("attention", "auto"),
        quantize="4bit" if base["quantization"] else None,
    )


def _base_path(folder: Path, base: Mapping[str, Any]) -> str:
    """The place of the base; whether it is the one, the hashes decide.

    That is where it is named to be, inside the export, as far from it as at export, where it was then, or where the
    run's own name of it leads on this machine.
    """
    if base.get("named"):
        path = resolve_path(base["path"])
        if Path(path).is_absolute() and not Path(path).is_dir():
            raise UserError(f"--base {base['path']} is no folder: name the folder of the base model, or its hub id")
        return path
    if base["inside_export"]:
        return str((folder / base["path"]).resolve())
    path, relative = base["path"], base.get("relative")
    if relative is not None and (folder / relative).is_dir():
        return str((folder / relative).resolve())
    if Path(path).is_absolute() and not Path(path).is_dir():
        path = resolve_path(base["configured"])
        if Path(path).is_absolute() and not Path(path).is_dir():
            raise UserError(
                f"{folder} needs its base model, but {base['path']} is no folder here: name its place with --base, or "
                "copy it there"
            )
    return path


def _adapters(
    folder: Path, objectives: Mapping[str, Mapping[str, Any]], scope: Any, recorded: Mapping[str, Any] | None
) -> tuple[LoraConfig, dict[str, dict[str, torch.Tensor]]]:
    """The shape that all adapters share, which must be the recorded one, and the tensors of each objective's folder."""
    adapters: dict[str, dict[str, torch.Tensor]] = {}
    shapes: dict[str, dict[str, Any]] = {}
    modules: set[str] = set()
    for name, about in objectives.items():
        path = folder / about["folder"] / "adapter_config.json"
        try:
            fields = json.loads(path.read_text("utf-8"))
            shapes[name] = {ours: fields[pefts] for pefts, ours in _SHAPE_FIELDS.items()}
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{path} is missing or broken: export the run again") from error
        adapters[name] = _read(folder / about["folder"] / "adapter_model.safetensors")
        modules |= {match[2] for key in adapters[name] if (match := _KEY.fullmatch(key))}
    first = next(iter(shapes))
    for name, shape in shapes.items():
        if shape != shapes[first]:
            raise UserError(f"{folder}: the adapters of {first} and {name} differ in shape: export the run again")
    ranks = (recorded or {}).get("ranks", {})
    if shapes[first] != {k: v for k, v in (recorded or shapes[first]).items() if k != "ranks"}:
        raise UserError(f"{folder}: the adapters were exported with {recorded}, not {shapes[first]}: export again")
    return LoraConfig(**shapes[first], ranks=ranks, targets=sorted(modules), scope=scope), adapters


def _named_tensors(
    folder: Path,
    objectives: Mapping[str, Mapping[str, Any]],
    adapters: Mapping[str, Mapping[str, torch.Tensor]],
    split: int,
) -> dict[str, torch.Tensor]:
    """All tensors under their names in the model, where `TRUNK.` is its list of layers."""
    tensors: dict[str, torch.Tensor] = {}
    for name, about in objectives.items():
        for key, tensor in adapters[name].items():
            parameter = f"heads.{name}.score.weight" if key == _SCORE else _parameter_name(folder, name, key, split)
            if not torch.equal(tensors.setdefault(parameter, tensor), tensor):
                raise UserError(f"{folder}/{name}: the shared tensor {key} is another one there: export the run again")
        if about["head"]:
            head = _read(folder / about["folder"] / HEADS[about["kind"]])
            tensors |= {f"heads.{name}.{key}": tensor for key, tensor in head.items()}
    return tensors


def _parameter_name(folder: Path, objective: str, key: str, split: int) -> str:
    match = _KEY.fullmatch(key)
    if match is None:
        raise UserError(f"{folder}/{objective}: the tensor {key} does not belong to the model: export the run again")
    number, inside, kind = int(match[1]), match[2], match[3]
    if number < split:
        return f"TRUNK.{number}.{inside}.{kind}.{SHARED}.weight"
    return f"backbone.upper.{number - split}.{inside}.{kind}.{objective}.weight"


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is missing or broken: export the run again") from error
