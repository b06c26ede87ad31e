"""serving.json: everything that a server must know to build the training prompts and to read the scores."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from equipoise.common.atomic import atomic_write
from equipoise.common.calibration import Calibration
from equipoise.common.digest import is_as_written, with_digest
from equipoise.common.errors import UserError
from equipoise.common.link import Link
from equipoise.configs.objective_spec import ObjectiveSpec
from equipoise.configs.schema import BackboneConfig, RunConfig
from equipoise.data.features import read_scales, rule_of
from equipoise.export.adapters import POINT_HEAD, SLATE_HEAD, ServedClass
from equipoise.modeling.adapter_store import AdapterInfo
from equipoise.modeling.backbone import load_backbone, stock_attention
from equipoise.modeling.base_config import load_model_config
from equipoise.modeling.base_files import IDENTITY, resolve_path
from equipoise.modeling.base_identity import weight_hashes
from equipoise.modeling.heads import SlateHead
from equipoise.modeling.model import SlateModel
from equipoise.modeling.quantized import serving_quantization

SCHEMA_VERSION = 1
FILE_NAME = "serving.json"
BASE_FOLDER = "base"
TOKENIZER_FOLDER = "tokenizer"
TOLERANCE = 1e-4


@dataclass(frozen=True)
class PromptLayout:
    """How token ids of a prompt are laid out; the values of equipoise.data.tokens.SlateTokenizer."""

    start_ids: list[int]
    prefix_end_ids: list[int]
    candidate_end_ids: list[int]
    context_separator: str
    max_prefix: int
    max_candidate: int

    def to_json(self) -> dict[str, Any]:
        """The layout with its rule in words."""
        return {
            **vars(self),
            "rule": (
                "start_ids + ids(prefix) + prefix_end_ids, then ids(item) + ids(context_separator + context) + "
                "candidate_end_ids; the three texts are tokenised apart and without special tokens, also where a text "
                "spells one (split_special_tokens); an empty context adds nothing, its separator neither"
            ),
            "truncation": (
                "the prefix text is cut at its end so that the prefix with its start and end ids has max_prefix ids; "
                "of a candidate that would have more than max_candidate ids, the item text is cut at its end first"
            ),
        }


def save_base(config: RunConfig, folder: Path) -> None:
    """Write the un-adapted base of a run, in its dtype: one of random weights, of a GGUF file, or of some layers."""
    whole = config.backbone.model_copy(update={"quantize": None})
    load_backbone(whole, config.seed).save_pretrained(folder)  # type: ignore[operator]


def golden_backbone(backbone: BackboneConfig, folder: Path) -> BackboneConfig:
    """The backbone as it will be served: in float32, from the copy in the export `folder` where there is one."""
    changes: dict[str, Any] = {"dtype": "float32", "checkpointing": False}
    if backbone.in_export:
        changes |= {"path": str(folder / BASE_FOLDER), "init": "pretrained", "revision": None, "layers": None}
    return backbone.model_copy(update=changes)


def base_path(backbone: BackboneConfig) -> str:
    """Where stock classes find the base: a hub id, an absolute folder, or `base` inside the export."""
    if backbone.in_export:
        return BASE_FOLDER
    path = resolve_path(backbone.path)
    return str(Path(path).resolve()) if Path(path).is_dir() else path


def with_base(record: Mapping[str, Any], base: str | None) -> dict[str, Any]:
    """serving.json with the base at another place, a folder or a hub id; as it is where none is named."""
    if base is None:
        return dict(record)
    place = {"path": base, "configured": base, "inside_export": False, "relative": None, "revision": None}
    return {**record, "base": {**record["base"], **place, "named": True}}


def base_record(backbone: BackboneConfig, base_hash: str, folder: Path, out: Path | None = None) -> dict[str, Any]:
    """What identifies the base model, with the hashes of its files.

    Args:
        backbone: of the run.
        base_hash: fingerprint of its architecture.
        folder: of the export while it is written.
        out: where it will be.
    """
    path = base_path(backbone)
    local = Path(path).is_absolute() and out is not None
    inside, model_config = backbone.in_export, load_model_config(backbone)
    return {
        "path": path,
        "inside_export": inside,
        "relative": os.path.relpath(path, (out or folder).resolve()) if local else None,
        "configured": backbone.path,
        "init": backbone.init,
        "revision": None if inside else backbone.revision,
        "commit": getattr(model_config, "_commit_hash", None),
        "layers": backbone.layers,
        IDENTITY: getattr(model_config, IDENTITY, None),
        "config_hash": base_hash,
        "weights_sha256": weight_hashes(golden_backbone(backbone, folder)),
        "trained_dtype": backbone.dtype,
        "quantization": serving_quantization(backbone.quantize),
    }


def choose_pad_id(model_config: Any, tokenizer: Any, candidate_end: list[int]) -> int:
    """An id to pad with that never ends a prompt: stock classifiers read the last token that is not this id.

    Raises:
        UserError: the vocabulary has a single token.
    """
    known = [getattr(model_config, "pad_token_id", None)]
    known += [getattr(tokenizer, f"{name}_token_id", None) for name in ("pad", "eos", "unk")]
    for token in (*known, 0, 1):
        if isinstance(token, int) and 0 <= token < model_config.vocab_size and token != candidate_end[-1]:
            return token
    raise UserError("backbone.path: no token is left to pad with: choose a backbone with a larger vocabulary")


def serving_record(
    config: RunConfig,
    info: AdapterInfo,
    model: SlateModel,
    served: Mapping[str, ServedClass],
    layout: PromptLayout,
    pad_id: int,
    folder: Path,
    out: Path | None = None,
) -> dict[str, Any]:
    """The content of serving.json.

    Args:
        config: the run's config.
        info: what its adapters belong to.
        model: the trained model.
        served: per objective the stock class that carries it.
        layout: of the prompts' ids.
        pad_id: from `choose_pad_id`.
        folder: of the export while it is written.
        out: where it will be.
    """
    encoder, specs = model.backbone.encoder, config.objectives.specs()
    return {
        "schema_version": SCHEMA_VERSION,
        "run": config.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: _version(name) for name in ("equipoise", "torch", "transformers", "peft")},
        "base": base_record(config.backbone, info.base_hash, folder, out),
        "tokenizer": {"path": TOKENIZER_FOLDER, "configured": config.backbone.tokenizer or config.backbone.path},
        "prompt": info.prompt,
        "history": info.history,
        "layout": layout.to_json(),
        "features": {
            name: {**scale.model_dump(), "rule": rule_of(scale)} for name, scale in read_scales(info.features).items()
        },
        "mask": "prefix" if encoder else "causal",
        "pooling": model.backbone.pooling,
        "first_position": model.backbone.first_position,
        "attn_implementation": stock_attention(model.backbone.config),
        "attention": model.backbone.attention,
        "pad_token_id": pad_id,
        "split": info.split,
        "trunk": "apart" if model.backbone.apart else "joint",
        "restarts": model.backbone.restarts,
        "scope": config.lora.scope,
        "objectives": {name: _objective(name, specs[name], model, served[name]) for name in model.objectives},
        "relevance": _relevance(model),
        "relevance_exponents": model.relevance.exponents,
        "operating_point": {
            "omega": dict.fromkeys(model.listwise, 0.0),
            "utility": "u = r + Σ ω_k δ_k",
            "note": "all 0 is pure relevance, until an operating point is chosen from a measured Pareto front",
        },
        "tolerance": TOLERANCE,
    }


def write_serving_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write serving.json with its own digest, whole or not at all."""
    with atomic_write(folder / FILE_NAME) as partial:
        text = json.dumps(with_digest(record), indent=2, ensure_ascii=False)
        partial.write_text(text + "\n", "utf-8")


def read_serving_record(folder: Path) -> dict[str, Any]:
    """The content of serving.json.

    Raises:
        UserError: the folder is not an export, or one of another version, or the file is not as it was written.
    """
    path = folder / FILE_NAME
    try:
        record = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{folder} is not an export (it holds no {FILE_NAME}): run `equipoise export` first") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: export the run again") from error
    if not isinstance(record, dict) or record.get("schema_version") != SCHEMA_VERSION:
        raise UserError(f"{path} is not of version {SCHEMA_VERSION}: export the run again with this equipoise")
    if not is_as_written(record):
        raise UserError(f"{path} is not as it was written: restore it, or export the run again")
    return record


def calibrations_of(record: Mapping[str, Any]) -> dict[str, Calibration]:
    """The calibrations in serving.json, by objective."""
    objectives: Mapping[str, Mapping[str, Any]] = record["objectives"]
    return {name: Calibration.of(about["calibration"]) for name, about in objectives.items() if "calibration" in about}


def calibration_lines_of(record: Mapping[str, Any]) -> dict[str, list[list[float]]]:
    """By objective the lines, [slope, intercept], that say how sure its logits are; none of older exports."""
    objectives: Mapping[str, Mapping[str, Any]] = record["objectives"]
    return {name: lines for name, about in objectives.items() if (lines := about.get("calibration_lines"))}


def _objective(name: str, spec: ObjectiveSpec, model: SlateModel, served: ServedClass) -> dict[str, Any]:
    record: dict[str, Any] = {"folder": name, "form": served.form, "meaning": spec.meaning}
    head = model.heads[name]
    if isinstance(head, SlateHead):
        width = head.out.in_features
        return {"kind": "listwise", **record, "head": SLATE_HEAD, "width": width, "heads": head.heads}
    file = POINT_HEAD if served.form == "features" else None
    offset = model.offsets[name]
    link = model.relevance.links.get(name, Link())
    about = {"kind": "pointwise", **record, "head": file, "logit_offset": offset}
    if link.name == "sigmoid":
        return {**about, "probability": link.formula}
    return {**about, **link.to_json(), "prediction": link.formula}


def _relevance(model: SlateModel) -> str:
    """The formula in words, of the raw outputs and their offsets."""
    text = ""
    for name, exponent in model.relevance.exponents.items():
        formula = model.relevance.links.get(name, Link()).formula
        for part in ("logit_offset", "logit "):
            formula = formula.replace(part, f"{part.strip()}_{name}{' ' if part.endswith(' ') else ''}")
        factor = "" if abs(exponent) == 1 else f"{abs(exponent):g} · "
        text += (" - " if exponent < 0 else " + " if text else "") + f"{factor}log {formula}"
    return f"r = {text.strip()}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a source tree
        return None
