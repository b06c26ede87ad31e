"""LoRA adapters in disjoint layers: `shared` below the split, one per objective above it."""

import math
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

from equipoise.common.errors import UserError
from equipoise.configs.schema import LoraConfig
from equipoise.modeling.backbone import find_layers

Keeps = Callable[[str], bool]
SHARED = "shared"
ATTENTION_WORDS = (
    "query",
    "key",
    "value",
    "q_proj",
    "k_proj",
    "v_proj",
    "c_attn",
    "qkv",
    "qkv_proj",
    "wqkv",
    "query_key_value",
)


def linear_modules(layer: nn.Module) -> list[str]:
    """Names, inside one layer, of the modules that PEFT can stand an adapter beside.

    Routers of experts that are a subclass of it give something else than a product, and the output of torch's
    nn.MultiheadAttention is never called.
    """
    return [
        name
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and not re.search("Router|Gat|NonDynamically", type(module).__name__)
    ]


def target_modules(layers: Sequence[nn.Module], targets: str | list[str], kept: Keeps | None = None) -> list[list[str]]:
    """Names, inside each layer, of the linear modules that get an adapter; layers may differ.

    Args:
        layers: of the model.
        targets: `lora.targets`.
        kept: tells of a module's last name whether PEFT leaves it where it is; None: it leaves all.

    Raises:
        UserError: a named module is no linear module of any layer or cannot be kept, or a layer would get no adapter.
    """
    linear = [linear_modules(layer) for layer in layers]
    known = list(dict.fromkeys(name for names in linear for name in names))
    moved = [name for name in known if kept is not None and not kept(name.rpartition(".")[2])]
    if isinstance(targets, list):
        unknown = [t for t in targets if not any(name == t or name.endswith(f".{t}") for name in known)]
        lost = [t for t in targets if any(name == t or name.endswith(f".{t}") for name in moved)]
        if unknown or lost:
            why = (
                "is no linear module of a layer"
                if unknown
                else "is what PEFT takes for the experts of this architecture"
            )
            choice = ", ".join(name for name in known if name not in moved)
            raise UserError(f"lora.targets: '{(unknown or lost)[0]}' {why}: choose from {choice}")
    chosen = [[name for name in names if name not in moved and _wanted(name, targets)] for names in linear]
    for number, names in enumerate(chosen):
        if not names:
            choice = ", ".join(name for name in linear[number] if name not in moved)
            if not choice:
                raise UserError(
                    f"backbone.path: layer {number} has no linear module that an adapter could stand beside: choose "
                    "another backbone"
                )
            raise UserError(f"lora.targets: '{targets}' matches no module of layer {number}: choose from {choice}")
    return chosen


def _wanted(name: str, targets: str | list[str]) -> bool:
    last = name.rpartition(".")[2]
    if targets == "all-linear":
        return True
    return last.lower() in ATTENTION_WORDS if targets == "attention" else name in targets or last in targets


def kept_by_peft(model: nn.Module) -> Keeps:
    """Whether PEFT, when it loads an adapter of this model, leaves modules of a name where they are.

    Of mixtures of experts it takes names such as `gate_proj` for parts of the experts' one tensor, wherever they stand.
    """

    def keeps(name: str) -> bool:
        asked = PeftLoraConfig(target_modules=[name])
        try:
            convert_peft_config_for_transformers(asked, model=model, conversions=None)
        except ValueError:  # one part of a tensor without the others
            return False
        return set(asked.target_modules or ()) == {name} and not asked.target_parameters

    return cache(keeps)


def alpha_of(lora: LoraConfig, rank: int) -> float:
    """The alpha of a rank under which updates are scaled as those of `lora.rank` are."""
    ratio = rank / lora.rank
    alpha = lora.alpha * (math.sqrt(ratio) if lora.rslora else ratio)
    return int(alpha) if alpha == int(alpha) else alpha


def lora_config(lora: LoraConfig, rank: int | None = None, **settings: Any) -> PeftLoraConfig:
    """PEFT's config of one adapter; a new object each time, for PEFT changes the one it is given.

    Args:
        lora: the settings of all adapters.
        rank: of this one; None takes `lora.rank`.
        settings: further fields of PEFT's config.
    """
    rank = rank or lora.rank
    return PeftLoraConfig(
        r=rank,
        lora_alpha=alpha_of(lora, rank),  # type: ignore[arg-type]  # PEFT divides by the rank, and takes any number
        lora_dropout=lora.dropout,
        use_rslora=lora.rslora,
        bias="none",
        **settings,
    )


def module_ranks(lora: LoraConfig, adapters: Sequence[str], modules: Sequence[Sequence[str]]) -> dict[str, int]:
    """The ranks of `lora.ranks` that belong to modules, by name.

    Args:
        lora: settings.
        adapters: names of all adapters, whose ranks are left out.
        modules: of each layer, those with an adapter.

    Raises:
        UserError: a name is neither an adapter's nor a module's.
    """
    known = dict.fromkeys(name for names in modules for name in names)
    found = {}
    for name, rank in lora.ranks.items():
        if name in adapters:
            continue
        if not any(module == name or module.endswith(f".{name}") for module in known):
            choice = ", ".join(dict.fromkeys(module.rpartition(".")[2] for module in known))
            raise UserError(
                f"lora.ranks names '{name}', which is neither an adapter ({', '.join(adapters)}) nor a module with one "
                f"({choice}): correct it or drop it"
            )
        found[re.escape(name)] = rank
    return found


def inject_adapters(model: nn.Module, split: int, objectives: Iterable[str], lora: LoraConfig) -> None:
    """Put the `shared` adapter into layers 0 … split−1 and one adapter per objective into the layers above.

    Adapter weights are float32 and trainable; all else is frozen.

    Raises:
        UserError: the split leaves no layer below or above it.
    """
    _, layers = find_layers(model)
    if not 1 <= split < len(layers):
        raise UserError(f"backbone.split: {split} must lie between 1 and {len(layers) - 1} for this backbone")
    modules = target_modules(list(layers), lora.targets, kept_by_peft(model))
    objectives = list(objectives)
    patterns = module_ranks(lora, (SHARED, *objectives), modules)
    transposed = isinstance(layers[0].get_submodule(modules[0][0]), Conv1D)  # asked before PEFT wraps it
    # Beside the model: of a whole one PEFT reads the architecture and rewrites where adapters of experts stand.
    apart: Any = nn.Module()
    apart.layers = layers
    apart.is_loaded_in_4bit = getattr(model, "is_loaded_in_4bit", False)  # PEFT asks for this name
    for name in (SHARED, *objectives):
        numbers = range(split) if name == SHARED else range(split, len(layers))
        paths = [rf"{number}\.({'|'.join(map(re.escape, modules[number]))})" for number in numbers]
        peft_config = lora_config(
            lora,
            lora.ranks.get(name),
            target_modules=rf"layers\.({'|'.join(paths)})",
            fan_in_fan_out=transposed,
            rank_pattern=dict(patterns),
            alpha_pattern={module: alpha_of(lora, rank) for module, rank in patterns.items()},
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # several adapters are meant
            inject_adapter_in_model(peft_config, apart, adapter_name=name)
    _assert_places(layers, split, objectives, modules)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()
    for module in model.modules():
        if isinstance(module, LoraLayer) and SHARED in module.lora_A:
            activate(module, [SHARED])


def _assert_places(layers: nn.ModuleList, split: int, objectives: list[str], modules: list[list[str]]) -> None:
    """Refuse where PEFT has put an adapter elsewhere than it was asked to.

    Raises:
        UserError: says where.
    """
    for number, layer in enumerate(layers):
        wanted = {SHARED} if number < split else set(objectives)
        found = {name: set(m.lora_A) | set(m.lora_B) for name, m in layer.named_modules() if isinstance(m, LoraLayer)}
        wrong = sorted(
            n for n in {*found, *modules[number]} if found.get(n) != (wanted if n in modules[number] else None)
        )
        others = [
            n for n, _ in layer.named_parameters() if ".lora_" in n and ".lora_A." not in n and ".lora_B." not in n
        ]
        if wrong or others:
            raise UserError(
                f"lora.targets: PEFT has put adapters into other modules of layer {number} than asked "
                f"({(wrong or others)[0]}): name modules there, such as {modules[number][0].rpartition('.')[2]}"
            )


def activate(module: LoraLayer, adapters: Sequence[str]) -> None:
    """Switch one LoRA layer to some adapters, or to none, without touching `requires_grad`, as `set_adapter` would."""
    module._active_adapter = list(adapters)


def lora_layers(module: nn.Module) -> list[LoraLayer]:
    """All LoRA layers inside a module."""
    return [child for child in module.modules() if isinstance(child, LoraLayer)]


def adapter_of(parameter_name: str) -> str | None:
    """The adapter that a LoRA parameter belongs to (`….lora_A.ctr.weight` → `ctr`); None for other parameters."""
    match = re.search(r"\.lora_[AB]\.([^.]+)\.weight$", parameter_name)
    return match.group(1) if match else None
