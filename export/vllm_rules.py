"""What vLLM's LoRA loader takes: each rule is a function that gives None, or a sentence with the fix.

The rules are those of vLLM's main branch as read on 2026-11-24: `vllm/lora/peft_helper.py` (config),
`vllm/lora/lora_model.py` and `vllm/lora/utils.py` (tensors), `vllm/config/lora.py` (ranks), pull request 53555
(classification heads), `docs/models/supported_models.md` (architectures with LoRA). vLLM itself is not installed here.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from equipoise.common.errors import UserError

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What `--max-lora-rank` may be; an adapter's rank may be anything up to it."""

HEADS = ("classifier", "score")

PLAIN_INITS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""Kinds of `init_lora_weights` that leave the base model's weights as they are."""

OTHER_KINDS = {
    "alora_invocation_tokens": "activated LoRA",
    "layer_replication": "replicated layers",
    "use_bdlora": "block-diagonal LoRA",
    "use_qalora": "QALoRA",
}

WITHOUT_LORA = ("bloom", "falcon", "falcon_mamba", "gpt2", "gptj", "gpt_neox", "mamba", "mamba2", "mpt", "stablelm")
"""Decoders that vLLM serves, but without LoRA."""

WEIGHTS = "adapter_model.safetensors"
LORA_KEY = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight$")


@dataclass(frozen=True)
class AdapterFile:
    """A PEFT folder as vLLM sees it.

    Attributes:
        config: adapter_config.json.
        shapes: of the tensors in adapter_model.safetensors, by key; None where the file is missing or unreadable.
        layers_name: full name of the list of layers in the class that is served.
    """

    config: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]] | None
    layers_name: str

    @classmethod
    def read(cls, folder: Path, layers_name: str) -> "AdapterFile":
        """Read the config and the tensors' shapes of an adapter's folder; no tensor is loaded."""
        config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
        try:
            with safe_open(folder / WEIGHTS, framework="pt") as file:
                shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            shapes = None
        return cls(config, shapes, layers_name)

    @property
    def lora_shapes(self) -> dict[tuple[str, str], tuple[int, ...]]:
        """(module, A or B) → shape."""
        matches = ((LORA_KEY.match(key), shape) for key, shape in (self.shapes or {}).items())
        return {(match["module"], match["side"]): shape for match, shape in matches if match}


def safetensors_file(adapter: AdapterFile) -> str | None:
    """`LoRAModel.from_local_checkpoint` looks for adapter_model.safetensors (we write no pickles)."""
    return None if adapter.shapes else f"{WEIGHTS} is missing, empty or unreadable: export again"


def needed_fields(adapter: AdapterFile) -> str | None:
    """`PEFTHelper.from_dict`: r, lora_alpha and target_modules have no default."""
    missing = [name for name in ("r", "lora_alpha", "target_modules") if adapter.config.get(name) is None]
    return f"adapter_config.json lacks {', '.join(missing)}: export again" if missing else None


def rank(adapter: AdapterFile) -> str | None:
    """`PEFTHelper.validate_legal` and `MaxLoRARanks`: a rank of 1 up to the largest `--max-lora-rank`."""
    ranks = [adapter.config.get("r") or 0, *(adapter.config.get("rank_pattern") or {}).values()]
    if min(ranks) >= 1 and max(ranks) <= RANKS[-1]:
        return None
    return f"rank {max(ranks)} fits no --max-lora-rank ({', '.join(map(str, RANKS))}): set lora.rank and train again"


def no_bias(adapter: AdapterFile) -> str | None:
    """`PEFTHelper.validate_legal`: bias must be "none"; `_validate_features`: no lora_bias."""
    if adapter.config.get("bias", "none") == "none" and not adapter.config.get("lora_bias"):
        return None
    return 'adapter biases are not supported: train with bias "none" and without lora_bias'


def no_dora(adapter: AdapterFile) -> str | None:
    """`PEFTHelper._validate_features`: no weight-decomposed adapters."""
    return "DoRA is not supported: train without use_dora" if adapter.config.get("use_dora") else None


def plain_lora(adapter: AdapterFile) -> str | None:
    """`PEFTHelper._validate_features`: LoRA or rsLoRA, none of PEFT's other kinds."""
    if adapter.config.get("peft_type", "LORA") != "LORA":
        return f"peft_type {adapter.config['peft_type']} is not supported: train plain LoRA"
    other = next((words for key, words in OTHER_KINDS.items() if adapter.config.get(key)), None)
    return f"{other} is not supported: train plain LoRA" if other else None


def untouched_base(adapter: AdapterFile) -> str | None:
    """`PEFTHelper._init_is_supported`: PiSSA, OLoRA, CorDA and LoftQ change the base's weights."""
    init = adapter.config.get("init_lora_weights", True)
    if not isinstance(init, str) or init.lower() in PLAIN_INITS:
        return None
    return f"init_lora_weights '{init}' changes the base model: train with the default initialisation"


def saved_modules(adapter: AdapterFile) -> str | None:
    """`PEFTHelper._validate_features`: modules_to_save may only hold a classification head."""
    strange = [name for name in adapter.config.get("modules_to_save") or [] if name not in HEADS]
    return f"modules_to_save holds {', '.join(strange)}: only {' or '.join(HEADS)} is served" if strange else None


def known_keys(adapter: AdapterFile) -> str | None:
    """`parse_fine_tuned_lora_name`: lora_A and lora_B weights, and the weights of modules_to_save."""
    heads = {f"base_model.model.{name}.weight" for name in adapter.config.get("modules_to_save") or []}
    strange = [key for key in adapter.shapes or {} if not LORA_KEY.match(key) and key not in heads]
    return f"tensor {strange[0]} is neither LoRA nor a saved head: export again" if strange else None


def served_prefix(adapter: AdapterFile) -> str | None:
    """`LoRAModel.from_lora_tensors` keeps module names: they must be those of the class that is served."""
    start = re.compile(rf"^{re.escape(adapter.layers_name)}\.\d+\.")
    strange = [module for module, _ in adapter.lora_shapes if not start.match(module)]
    return f"module {strange[0]} is not in the served {adapter.layers_name}: export again" if strange else None


def targeted(adapter: AdapterFile) -> str | None:
    """`check_unexpected_modules`: every tensor belongs to a target module."""
    targets = adapter.config.get("target_modules") or []
    if isinstance(targets, str):
        return "target_modules is a regular expression: name the modules in a list"
    strange = [
        module
        for module, _ in adapter.lora_shapes
        if not any(module == target or module.endswith(f".{target}") for target in targets)
    ]
    return f"module {strange[0]} is none of target_modules: export again" if strange else None


def whole_pairs(adapter: AdapterFile) -> str | None:
    """`LoRALayerWeights`: each module has an A of (rank, in) and a B of (out, rank)."""
    shapes, expected = adapter.lora_shapes, adapter.config.get("r")
    for module, _ in shapes:
        a, b = shapes.get((module, "A")), shapes.get((module, "B"))
        if a is None or b is None or len(a) != 2 or len(b) != 2 or not a[0] == b[1] == expected:
            return f"the A and B of {module} are not a pair of rank {expected}: export again"
    return None


RULES: tuple[Callable[[AdapterFile], str | None], ...] = (
    needed_fields,
    safetensors_file,
    plain_lora,
    rank,
    no_bias,
    no_dora,
    untouched_base,
    saved_modules,
    known_keys,
    served_prefix,
    targeted,
    whole_pairs,
)


def why_not_vllm(
    form: str,
    scope: str,
    model_type: str,
    encoder: bool,
    features: Sequence[str] = (),
    beside: Sequence[str] = (),
    several_ranks: bool = False,
) -> str | None:
    """Why vLLM cannot serve an adapter of this kind at all, however it is written; None where it can.

    Args:
        form: of the served class.
        scope: `lora.scope` of the run.
        model_type: of the base.
        encoder: whether the base is one.
        features: that the heads read.
        beside: what else a logit holds beside the text, in words.
        several_ranks: whether its modules differ in rank (`lora.ranks`).
    """
    if encoder:
        return "an encoder's prefix must not see the candidate, and vLLM has no such mask"
    if scope == "candidates":
        return "lora.scope: candidates; vLLM applies LoRA to every token, and refuses activated LoRA"
    if features:
        return f"the heads read features ({', '.join(features)}), which no stock classifier has"
    if beside:
        return f"the logit holds {' and '.join(beside)}, which no stock classifier has"
    if form != "sequence_classification":
        return "δ needs the vectors of a whole slate and a head of its own"
    if model_type in WITHOUT_LORA:
        return f"vLLM serves {model_type} without LoRA; use a merged checkpoint (--format merged)"
    if several_ranks:
        return "lora.ranks gives modules several ranks, and vLLM reads one; use a merged checkpoint (--format merged)"
    return None


def largest_rank_option(rank: int) -> int:
    """The `--max-lora-rank` to start vLLM with."""
    return next(size for size in RANKS if size >= rank)


def check_adapter(folder: Path, layers_name: str) -> int:
    """Hold an adapter's folder against every rule; returns the `--max-lora-rank` that it needs.

    Raises:
        UserError: a rule is broken; names the folder and the fix.
    """
    adapter = AdapterFile.read(folder, layers_name)
    for rule in RULES:
        broken = rule(adapter)
        if broken:
            raise UserError(f"{folder.name}: vLLM would not load this adapter: {broken}")
    return largest_rank_option(adapter.config["r"])
