"""The trained part of a model on disk: adapters and heads as safetensors, and what they belong to beside it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from equipoise.common.atomic import atomic_write
from equipoise.common.errors import UserError
from equipoise.common.hashing import file_hash
from equipoise.modeling.heads import as_named_now

if TYPE_CHECKING:
    from equipoise.modeling.model import ModelSpec, SlateModel

TENSORS = "adapters.safetensors"
ABOUT = "adapters.json"


@dataclass(frozen=True)
class TextTemplates:
    """The templates that rendered the training texts, as JSON."""

    prompt: dict[str, Any]
    history: dict[str, Any] | list[dict[str, Any]]


@dataclass(frozen=True)
class AdapterInfo:
    """What the tensors of a run belong to.

    Attributes:
        base_path, base_hash: the base model as configured, and the fingerprint of its architecture.
        split: first layer of the towers.
        pointwise: name → outputs of its head, in the order of the towers.
        listwise: names of the objectives with a slate head.
        offsets: constants added to the pointwise logits.
        prompt, history: the templates that rendered the training texts.
        features: by the names of the features, in their order, how they are standardised.
        retrieval: name → dimension of its vectors.
        relevance: exponents of the formula; {} (runs of before there was one): 1 of every pointwise objective.
        links: what the pointwise outputs stand for; one that is not named gives a probability.
        priors: names of the objectives that begin as a prior, in the order of the model's input.
        comparison: sizes of what heads compare, as ComparisonShape; {} where nothing is compared.
        gguf_sha256: of the file that the base model was read from; None of any other base.
        base_weights, tokenizer, settings: as in `equipoise.modeling.base_identity`; None in runs of before.
    """

    base_path: str
    base_hash: str
    split: int
    pointwise: dict[str, int]
    listwise: list[str]
    offsets: dict[str, float]
    prompt: dict[str, Any]
    history: dict[str, Any] | list[dict[str, Any]]
    features: dict[str, dict[str, Any]] = field(default_factory=dict)
    retrieval: dict[str, int] = field(default_factory=dict)
    relevance: dict[str, float] = field(default_factory=dict)
    links: dict[str, dict[str, Any]] = field(default_factory=dict)
    priors: list[str] = field(default_factory=list)
    comparison: dict[str, int] = field(default_factory=dict)
    gguf_sha256: str | None = None
    base_weights: dict[str, str] | None = None
    tokenizer: str | None = None
    settings: dict[str, Any] | None = None

    @staticmethod
    def of(
        spec: "ModelSpec", model: "SlateModel", texts: TextTemplates, features: Mapping[str, dict[str, Any]]
    ) -> "AdapterInfo":
        """What the adapters of a model belong to.

        Args:
            spec: that it was built from.
            model: built.
            texts: templates of the training texts.
            features: how each feature is standardised.
        """
        from equipoise.modeling.backbone import load_model_config  # transformers loads only here
        from equipoise.modeling.base_config import config_hash

        base_config = load_model_config(spec.backbone)
        return AdapterInfo(
            base_path=spec.backbone.path,
            base_hash=config_hash(base_config),
            split=model.backbone.split,
            pointwise=dict(spec.pointwise),
            listwise=list(spec.listwise),
            offsets=model.offsets,
            prompt=texts.prompt,
            history=texts.history,
            features=dict(features),
            retrieval=dict(spec.retrieval),
            relevance=model.relevance.exponents,
            links={name: link.to_json() for name, link in model.relevance.links.items()},
            priors=list(spec.priors),
            comparison=asdict(spec.comparison) if spec.comparison else {},
            gguf_sha256=getattr(base_config, "gguf_sha256", None),
        )


def save_adapters(folder: Path, tensors: Mapping[str, torch.Tensor], info: AdapterInfo) -> None:
    """Write tensors and info to `folder`, each under a temporary name first.

    Raises:
        ValueError: a tensor is empty, as an ungathered ZeRO-3 parameter is.
    """
    empty = [name for name, tensor in tensors.items() if tensor.numel() == 0]
    if empty:
        raise ValueError(f"{len(empty)} tensors are empty, the first is {empty[0]}: they were not gathered")
    folder.mkdir(parents=True, exist_ok=True)
    contiguous = {name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in tensors.items()}
    with atomic_write(folder / TENSORS) as partial:
        save_file(contiguous, partial)
    with atomic_write(folder / ABOUT) as partial:
        partial.write_text(json.dumps(asdict(info), indent=2))


def read_info(folder: Path) -> AdapterInfo:
    """Read what the adapters in `folder` belong to.

    Raises:
        UserError: the folder holds no complete set of adapters.
    """
    try:
        return AdapterInfo(**json.loads((folder / ABOUT).read_text()))
    except FileNotFoundError as error:
        raise UserError(f"{folder} holds no trained adapters: finish `equipoise train` first") from error
    except (ValueError, TypeError) as error:
        raise UserError(f"{folder / ABOUT} cannot be read: train again or restore the file") from error


def adapters_hash(folder: Path) -> str:
    """The sha256 of the trained tensors in `folder`; raises UserError where there are none."""
    try:
        return file_hash(folder / TENSORS)
    except FileNotFoundError as error:
        raise UserError(f"{folder} holds no trained adapters: finish `equipoise train` first") from error


def load_adapters(model: nn.Module, folder: Path, base_hash: str) -> AdapterInfo:
    """Load the tensors in `folder` into a model built from the same config.

    Raises:
        UserError: files are missing or broken, or belong to another base model or other settings.
    """
    info = read_info(folder)
    if info.base_hash != base_hash:
        raise UserError(
            f"{folder} was trained on another base model than backbone.path names now "
            f"(fingerprint {info.base_hash}, here {base_hash}): point backbone.path to {info.base_path}"
        )
    try:
        tensors = load_file(folder / TENSORS)
    except (FileNotFoundError, SafetensorError) as error:
        raise UserError(f"{folder / TENSORS} is missing or broken: finish `equipoise train` first") from error
    copy_into(model, as_named_now(tensors, info.retrieval), str(folder / TENSORS))
    return info


def copy_into(model: nn.Module, tensors: Mapping[str, torch.Tensor], source: str) -> None:
    """Copy tensors into the trainable parameters of the same names, which must be the same set.

    Raises:
        UserError: names or shapes differ.
    """
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    differing = sorted(set(trainable) ^ set(tensors)) or sorted(
        name for name, p in trainable.items() if p.shape != tensors[name].shape
    )
    if differing:
        raise UserError(
            f"{source} does not fit this config ('{differing[0]}' and {len(differing) - 1} more differ): "
            "use the lora, objectives and backbone settings that it was trained with"
        )
    with torch.no_grad():
        for name, parameter in trainable.items():
            parameter.copy_(tensors[name])
