"""How long a prompt may be so that a backbone reads it alike, whatever stands beside it in a batch, and why."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

POSITIONS_AFTER_PADDING = (
    "camembert",
    "data2vec-text",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
)
UNWINDOWED = ("full_attention", "global")


@dataclass(frozen=True)
class PromptLimit:
    """Most tokens of a prompt (prefix and one candidate), and what the backbone does with longer ones."""

    tokens: int
    why: str


def first_position(config: Any) -> int:
    """The position of a prompt's first token: 0, but RoBERTa and its kin count on from the id of their padding."""
    return config.pad_token_id + 1 if config.model_type in POSITIONS_AFTER_PADDING else 0


def prompt_limit(config: Any) -> PromptLimit | None:
    """The tightest limit of a backbone, or None where nothing limits it."""
    return min(_limits(config), key=lambda limit: limit.tokens, default=None)


def _limits(config: Any) -> Iterator[PromptLimit]:
    for key in ("max_position_embeddings", "n_positions"):
        positions = _whole(config, key)
        if positions:
            own = positions - first_position(config)
            yield PromptLimit(own, f"has {own} positions")
    yield from _window(config)
    chunk = _whole(config, "attention_chunk_size")
    if chunk and "chunked_attention" in (getattr(config, "layer_types", None) or ["chunked_attention"]):
        yield PromptLimit(chunk, f"attends within chunks of {chunk} tokens, which a slate would cut elsewhere")
    floor = _whole(config, "floor_scale")
    if floor and getattr(config, "attn_temperature_tuning", False):
        yield PromptLimit(floor - 1, f"scales its queries by their place in the row from token {floor} on")
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if rope.get("rope_type") == "longrope":
        switch = rope.get("original_max_position_embeddings") or _whole(config, "original_max_position_embeddings")
        if switch:
            yield PromptLimit(
                switch,
                f"takes other rotary factors for a whole batch once one of its prompts has more than {switch} tokens",
            )


def _window(config: Any) -> Iterator[PromptLimit]:
    """Sliding windows, of models that have a layer with one."""
    window = _whole(config, "sliding_window")
    kinds = getattr(config, "layer_types", None)
    windowed = any(kind not in UNWINDOWED for kind in kinds) if kinds else getattr(config, "use_sliding_window", True)
    if not window or not windowed:
        return
    if config.model_type == "modernbert":  # half of local_attention, to either side
        window += 1
    yield PromptLimit(
        window, f"sees a window of {window} tokens in some layers, and packed slates are compared without windows"
    )


def _whole(config: Any, key: str) -> int | None:
    try:
        value = getattr(config, key, None)
    except RuntimeError:  # transformers' way to say that there is one for each layer
        each = [getattr(config.per_layer_config[n], key, None) for n in range(config.num_hidden_layers)]
        value = min((one for one in each if isinstance(one, int) and one > 0), default=None)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
