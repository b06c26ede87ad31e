"""Architectures that cannot be served as packed slates, each with its reason, told before any weights load."""

from typing import Any

from equipoise.common.errors import UserError

STATEFUL = ("linear_attention", "mamba", "mamba2", "conv", "recurrent", "hybrid", "rwkv", "kda")
"""Kinds of layers that carry something along a row beside what a mask can keep apart."""


def refuse_architecture(config: Any, path: str) -> None:
    """Refuse what no mask can separate.

    Raises:
        UserError: an encoder-decoder, a wrapper around several towers, or layers with a state.
    """
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(f"backbone.path: '{path}' is an encoder-decoder: choose a decoder or an encoder")
    inner = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    if inner is not config:
        raise UserError(
            f"backbone.path: '{path}' ({config.model_type}) wraps a text tower ({inner.model_type}) with others: save "
            "the tower alone, by `AutoModel.from_pretrained(PATH).get_decoder().save_pretrained(FOLDER)`, its "
            "tokenizer too, and name that folder"
        )
    stateful = sorted(set(_kinds(config)) & set(STATEFUL))
    if stateful:
        raise UserError(
            f"backbone.path: '{path}' ({config.model_type}) has layers of the kind {', '.join(stateful)}, which carry "
            "a state along the row, so that the candidates of a slate would read each other: choose a backbone whose "
            "layers all use attention"
        )


def _kinds(config: Any) -> list[str]:
    """The kinds of a model's layers, by whatever name its config has for them."""
    kinds: list[str] = []
    for key in ("layer_types", "layers_block_type", "block_types", "layers_types"):
        value = getattr(config, key, None)
        if isinstance(value, list | tuple):
            kinds += [str(kind) for kind in value]
    if config.model_type in ("mamba", "mamba2", "falcon_mamba", "rwkv", "falcon_h1"):
        kinds.append("mamba")
    return kinds
