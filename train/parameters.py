"""Trainable and frozen parameters, on every engine: groups, gathering, and the check of what moved."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from equipoise.configs.schema import TrainConfig
from equipoise.modeling.adapters import adapter_of, lora_layers
from equipoise.modeling.model import SlateModel
from equipoise.train.world import World


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that train, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def group_of(name: str) -> str:
    """What a trainable parameter is counted under: `adapter ctr`, `head ctr`, …"""
    adapter = adapter_of(name)
    return f"adapter {adapter}" if adapter else f"head {name.removeprefix('heads.').split('.')[0]}"


def optimizer_groups(model: nn.Module, config: TrainConfig, learned_parts: Sequence[str] = ()) -> list[dict]:
    """AdamW's groups: adapters at `lr`, heads at `head_lr`; what heads have learned alone at a fraction of that.

    With `lora_plus` the B matrices of adapters are a group of their own, after that of A.

    Args:
        model: with its adapters and heads.
        config: learning rates.
        learned_parts: what names of parameters begin with that learned alone; without any there are two groups.
    """
    groups: dict[str, list[nn.Parameter]] = {"adapters": [], "up": [], "heads": [], "learned": []}
    for name, parameter in trainable(model).items():
        learned = name.startswith(tuple(learned_parts))
        adapter = "up" if config.lora_plus != 1.0 and ".lora_B." in name else "adapters"
        groups[adapter if adapter_of(name) else "learned" if learned else "heads"].append(parameter)
    slower = config.learned_lr_ratio if config.head_epochs else 1.0
    rates = {
        "adapters": config.lr,
        "up": config.lr * config.lora_plus,
        "heads": config.head_lr,
        "learned": config.head_lr * slower,
    }
    always = ("adapters", "heads")
    return [{"params": groups[name], "lr": rate} for name, rate in rates.items() if groups[name] or name in always]


def full_size(parameter: nn.Parameter) -> int:
    """Number of elements, also where ZeRO-3 has cut the parameter up or a frozen one is packed to 4 bits."""
    state = getattr(parameter, "quant_state", None)
    if state is not None:
        return math.prod(state.shape)
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def reached_share(model: SlateModel) -> float:
    """The share of the layers' own weights that stand in modules with an adapter."""
    whole = reached = 0
    for layer in model.layers():
        whole += sum(full_size(p) for name, p in layer.named_parameters() if adapter_of(name) is None)
        reached += sum(full_size(p) for module in lora_layers(layer) for p in module.get_base_layer().parameters())
    return reached / max(whole, 1)


def local_part(parameter: nn.Parameter) -> torch.Tensor:
    """What this process holds of a parameter: all of it, or its piece under ZeRO-3 and FSDP 2."""
    local = getattr(parameter, "ds_tensor", parameter).detach()
    return local.to_local() if isinstance(local, DTensor) else local


def gather(parameters: dict[str, nn.Parameter]) -> dict[str, torch.Tensor]:
    """Full copies on the CPU; under ZeRO-3 every process must call this."""
    copies = {}
    for name, parameter in parameters.items():
        if hasattr(parameter, "ds_id"):
            import deepspeed

            with deepspeed.zero.GatheredParameters([parameter]):
                copies[name] = parameter.detach().cpu().clone()
        else:
            copies[name] = parameter.detach().cpu().clone()
    return copies


class MovementCheck:
    """Remembers all weights at the start and tells at the end what moved.

    Of frozen weights only two float64 sums are kept; of trainable ones a copy of this process's part.
    """

    def __init__(self, model: nn.Module, world: World) -> None:
        self.world = world
        self._model = model
        self._frozen = {n: self._mark(p) for n, p in model.named_parameters() if not p.requires_grad}
        self._start = {n: local_part(p).clone() for n, p in trainable(model).items()}

    @staticmethod
    def _mark(parameter: nn.Parameter) -> tuple[float, float]:
        values = local_part(parameter).double()
        return float(values.sum()), float((values * values).sum())

    def moved(self) -> dict[str, float]:
        """Per adapter and head the largest change of a weight since the start, over all processes."""
        largest: dict[str, float] = defaultdict(float)
        for name, parameter in trainable(self._model).items():
            change = (local_part(parameter) - self._start[name]).abs()
            largest[group_of(name)] = max(largest[group_of(name)], float(change.max()) if change.numel() else 0.0)
        names = sorted(largest)
        everywhere = [dict(values) for values in self.world.gather(dict(largest))]
        return {name: max(values[name] for values in everywhere) for name in names}

    def changed_frozen(self) -> list[str]:
        """Names of frozen weights of this process that differ from the start; should be empty."""
        parameters = dict(self._model.named_parameters())
        return [name for name, mark in self._frozen.items() if self._mark(parameters[name]) != mark]


def count_by_group(names: Iterable[tuple[str, nn.Parameter]]) -> dict[str, int]:
    """Elements per adapter and head."""
    counts: dict[str, int] = defaultdict(int)
    for name, parameter in names:
        counts[group_of(name)] += full_size(parameter)
    return dict(counts)
