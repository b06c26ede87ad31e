"""The stock classes that serve an exported adapter, and what their modules are called."""

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification
from transformers.pytorch_utils import Conv1D

from equipoise.modeling.adapters import target_modules
from equipoise.modeling.backbone import find_layers

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
        form: the wanted form.
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
    modules = target_modules(layers[0], targets)
    return ServedClass(
        form=form,
        layers_name=layers_name,
        target_modules=_plain_targets(model, layers_name, len(layers), modules),
        fan_in_fan_out=isinstance(layers[0].get_submodule(modules[0]), Conv1D),
    )


def _plain_targets(model: nn.Module, layers_name: str, layers: int, modules: list[str]) -> list[str]:
    """Names for PEFT, which matches them as endings: last part, path in the layer, or full name, first that fits."""
    full = {f"{layers_name}.{number}.{module}" for number in range(layers) for module in modules}
    names = [name for name, _ in model.named_modules()]
    for choice in ({module.rpartition(".")[2] for module in modules}, set(modules)):
        matched = {name for name in names if any(name == end or name.endswith(f".{end}") for end in choice)}
        if matched == full:
            return sorted(choice)
    return sorted(full)
