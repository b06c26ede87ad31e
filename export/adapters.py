"""One standard PEFT folder per objective: the `shared` tensors and the objective's own, for a stock class."""

import copy
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft import TaskType
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification
from transformers.pytorch_utils import Conv1D

from equipoise.configs.schema import LoraConfig
from equipoise.modeling.adapters import SHARED, adapter_of, alpha_of, kept_by_peft, lora_config, target_modules
from equipoise.modeling.backbone import find_layers
from equipoise.modeling.model import SlateModel

POINT_HEAD = "head.safetensors"
SLATE_HEAD = "slate_head.safetensors"
VECTOR_HEAD = "vector_head.safetensors"
PEFT_PREFIX = "base_model.model."
Form = Literal["sequence_classification", "features"]


@dataclass(frozen=True)
class ServedClass:
    """A stock class with an adapter in all its layers.

    Attributes:
        form: `sequence_classification` (the class has a bias-free `score`) or `features` (head in a file of its own).
        layers_name: full name of its list of layers.
        target_modules: the plain names for `LoraConfig.target_modules`: the shortest that match nothing else.
        fan_in_fan_out: whether its linear modules are GPT-2's Conv1D.
    """

    form: Form
    layers_name: str
    target_modules: list[str]
    fan_in_fan_out: bool


def serve_as(config: Any, form: Form, targets: str | list[str]) -> ServedClass | None:
    """Look a stock class up without its weights; None where there is none with a plain `score` for this backbone.

    Args:
        config: the base model's config.
        form: with a `score` head or without a head.
        targets: `lora.targets` of the run.
    """
    config = copy.deepcopy(config)
    config.num_labels = 1
    with torch.device("meta"):
        if form == "features":
            model = AutoModel.from_config(config)
        else:
            try:
                model = AutoModelForSequenceClassification.from_config(config)
            except ValueError:  # no such class for this architecture
                return None
    if form == "sequence_classification":
        score = getattr(model, "score", None)
        if not isinstance(score, nn.Linear) or score.bias is not None:
            return None
    layers_name, layers = find_layers(model)
    modules = target_modules(list(layers), targets, kept_by_peft(model))
    return ServedClass(
        form=form,
        layers_name=layers_name,
        target_modules=_plain_targets(model, layers_name, modules),
        fan_in_fan_out=isinstance(layers[0].get_submodule(modules[0][0]), Conv1D),
    )


def _plain_targets(model: nn.Module, layers_name: str, modules: list[list[str]]) -> list[str]:
    """Names for PEFT, which matches them as endings: last part, path in the layer, or full name, first that fits."""
    full = {f"{layers_name}.{number}.{module}" for number, own in enumerate(modules) for module in own}
    paths = {module for own in modules for module in own}
    names = [name for name, _ in model.named_modules()]
    for choice in ({module.rpartition(".")[2] for module in paths}, paths):
        matched = {name for name in names if any(name == end or name.endswith(f".{end}") for end in choice)}
        if matched == full:
            return sorted(choice)
    return sorted(full)


@dataclass(frozen=True)
class ExportedAdapter:
    """What was written for one objective: its PEFT task type, tensors, parameters and bytes on disk."""

    objective: str
    task_type: str
    tensors: int
    parameters: int
    size: int


def lora_tensors(model: SlateModel, objective: str, layers_name: str, alone: bool = False) -> dict[str, torch.Tensor]:
    """The adapter of one objective under the keys that PEFT gives it in a served class.

    Args:
        model: the trained model.
        objective: whose tensors join the shared ones.
        layers_name: full name of the list of layers in the served class.
        alone: leave the shared ones out; with `objective` "shared", these alone.
    """
    trunk, upper = f"backbone.trunk.{model.backbone.layers_name}.", "backbone.upper."
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        if adapter_of(name) not in ((objective,) if alone else (SHARED, objective)):
            continue
        start, shift = (trunk, 0) if name.startswith(trunk) else (upper, model.backbone.split)
        number, _, inside = name.removeprefix(start).partition(".")
        inside = re.sub(r"\.(lora_[AB])\.[^.]+\.weight$", r".\1.weight", inside)
        # The towers' layers were taken out of the model's list and count from 0 there.
        key = f"{PEFT_PREFIX}{layers_name}.{int(number) + shift}.{inside}"
        tensors[key] = parameter.detach().to("cpu", torch.float32).contiguous().clone()
    return tensors


def write_adapter(
    folder: Path,
    model: SlateModel,
    objective: str,
    served: ServedClass,
    lora: LoraConfig,
    base: str,
    revision: str | None,
) -> ExportedAdapter:
    """Write `folder`: adapter_config.json, adapter_model.safetensors and, next to them, a head that PEFT cannot hold.

    Args:
        folder: the objective's folder, made here.
        model: the trained model.
        objective: its name.
        served: the stock class that will carry the adapter.
        lora: the adapters' settings in the run.
        base, revision: for `base_model_name_or_path` and `revision`.
    """
    folder.mkdir(parents=True)
    tensors = lora_tensors(model, objective, served.layers_name)
    head_inside, head_file = write_heads(folder, model, objective, served)
    tensors |= head_inside
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    classified = served.form == "sequence_classification"
    task_type = TaskType.SEQ_CLS if classified else TaskType.FEATURE_EXTRACTION
    write_config(folder, served, lora, task_type, base, revision, **rank_patterns(tensors, lora))
    written = [*tensors.values(), *head_file.values()]
    return ExportedAdapter(
        objective=objective,
        task_type=task_type.value,
        tensors=len(written),
        parameters=sum(tensor.numel() for tensor in written),
        size=sum(file.stat().st_size for file in folder.iterdir()),
    )


def rank_patterns(tensors: Mapping[str, torch.Tensor], lora: LoraConfig) -> dict[str, Any]:
    """PEFT's fields for modules of another rank than `lora.rank`, by their full names; {} where there is none.

    Args:
        tensors: of an adapter, under PEFT's keys.
        lora: the settings of all adapters.
    """
    end = ".lora_A.weight"
    ranks = {key.removeprefix(PEFT_PREFIX).removesuffix(end): x.shape[0] for key, x in tensors.items() if end in key}
    others = {module: rank for module, rank in ranks.items() if rank != lora.rank}
    if not others:
        return {}
    return {"rank_pattern": others, "alpha_pattern": {m: alpha_of(lora, rank) for m, rank in others.items()}}


def write_heads(
    folder: Path, model: SlateModel, objective: str, served: ServedClass
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """An objective's head: tensors that go into the adapter's file, and those of the file written next to it."""
    head = {name: tensor.detach().float().cpu().clone() for name, tensor in model.heads[objective].state_dict().items()}
    if objective in model.listwise or objective in model.retrieval:
        save_file(head, folder / (SLATE_HEAD if objective in model.listwise else VECTOR_HEAD))
        return {}, head
    score = head["score.weight"][:1].contiguous()  # output 0 is the logit, the others only serve training
    if served.form == "features":
        beside = ("response.", "moved", "comparison.")
        head_file = {"score.weight": score} | {key: head[key] for key in head if key.startswith(beside)}
        save_file(head_file, folder / POINT_HEAD)
        return {}, head_file
    return {f"{PEFT_PREFIX}score.weight": score}, {}


def write_config(
    folder: Path,
    served: ServedClass,
    lora: LoraConfig,
    task_type: TaskType,
    base: str,
    revision: str | None,
    **settings: Any,
) -> None:
    """adapter_config.json; `settings` change or add fields of PEFT's config."""
    fields = {
        "target_modules": served.target_modules,
        "modules_to_save": ["score"] if task_type == TaskType.SEQ_CLS else None,
        **settings,
    }
    peft_config = lora_config(
        lora,
        fan_in_fan_out=served.fan_in_fan_out,
        task_type=task_type,
        base_model_name_or_path=base,
        revision=revision,
        inference_mode=True,
        **fields,
    )
    peft_config.save_pretrained(str(folder))
    path = folder / "adapter_config.json"
    written = json.loads(path.read_text())
    written["target_modules"] = sorted(written["target_modules"])  # PEFT writes a set, whose order changes
    path.write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")
