"""The tokenizer of an export, which must lay out prompts as in training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from equipoise.common.errors import UserError
from equipoise.configs.schema import BackboneConfig, TokensConfig
from equipoise.data.tokens import SlateTokenizer
from equipoise.modeling.base_config import load_tokenizer

MOST_REMEMBERED = 50_000
"""Texts of items, and of contexts, whose ids are remembered: bounded, for anybody may send new ones."""


def read_tokenizer(folder: Path, record: Mapping[str, Any], encoder: bool) -> SlateTokenizer:
    """The tokenizer of an export; it takes the texts of items themselves in place of their numbers.

    Args:
        folder: of the export.
        record: its serving.json.
        encoder: whether the backbone is an encoder.

    Raises:
        UserError: it cannot be loaded, or lays prompts out in another way than serving.json says.
    """
    layout = record["layout"]
    limits = TokensConfig(
        max_prefix=layout["max_prefix"], max_candidate=layout["max_candidate"], max_row=record["limits"]["max_row"]
    )
    tokenizer = load_tokenizer(BackboneConfig(path=str(folder / record["tokenizer"]["path"])))
    slates = SlateTokenizer(tokenizer, limits, encoder, list, MOST_REMEMBERED, MOST_REMEMBERED)
    of_tokenizer = {
        "start_ids": list(slates.start),
        "prefix_end_ids": list(slates.prefix_end),
        "candidate_end_ids": list(slates.candidate_end),
        "context_separator": slates.separator,
    }
    for name, value in of_tokenizer.items():
        if layout[name] != value:
            raise UserError(f"{folder}: serving.json has {name} {layout[name]}, its tokenizer {value}: export it again")
    return slates
