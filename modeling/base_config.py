"""The base's config and tokenizer, which commands read that have no use for its weights.

Nothing here imports a model's code, which takes seconds.
"""

import hashlib
import json
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from equipoise.common.errors import UserError
from equipoise.configs.schema import BackboneConfig
from equipoise.modeling.base_files import resolve_path
from equipoise.modeling.base_kinds import refuse_architecture

DROPOUT_KEYS = (
    "activation_dropout",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "attn_pdrop",
    "classifier_dropout",
    "dropout",
    "embd_pdrop",
    "embed_dropout",
    "embedding_dropout",
    "hidden_dropout",
    "hidden_dropout_prob",
    "mlp_dropout",
    "resid_pdrop",
)


def load_model_config(backbone: BackboneConfig) -> Any:
    """The Hugging Face config of the backbone, all dropout of the frozen base switched off.

    Raises:
        UserError: the path holds no loadable config, names an encoder-decoder, or has fewer than `layers` layers.
    """
    path = resolve_path(backbone.path)
    try:
        config = AutoConfig.from_pretrained(path, revision=backbone.revision)
    except Exception as error:  # configs of unknown or odd architectures trip transformers in many ways
        raise UserError(f"backbone.path: no model config can be loaded from '{path}' ({reason_of(error)})") from error
    refuse_architecture(config, path)
    for key in DROPOUT_KEYS:
        if getattr(config, key, None):
            setattr(config, key, 0.0)
    if backbone.layers is not None:
        _keep_layers(config, backbone.layers, backbone.path)
    return config


def reason_of(error: Exception) -> str:
    """The first line of an exception, with its kind where it is not one that transformers has written for people."""
    line = next(iter(str(error).strip().splitlines()), "")
    return line if isinstance(error, OSError | ValueError) and line else f"{type(error).__name__}: {line}"


def _keep_layers(config: Any, layers: int, path: str) -> None:
    """Describe the model of the first layers alone; lists with one entry per layer are cut too."""
    whole = config.num_hidden_layers
    if layers > whole:
        raise UserError(f"backbone.layers: '{path}' has {whole} layers, not {layers}: set at most {whole}, or null")
    for key, value in list(vars(config).items()):
        if "layer" in key and isinstance(value, list | tuple) and len(value) == whole:
            setattr(config, key, value[:layers])
    config.num_hidden_layers = layers


def is_encoder(config: Any) -> bool:
    """Whether the backbone attends in both directions: BERT and its kin, and decoders made encoders."""
    if getattr(config, "use_bidirectional_attention", None) is True:
        return True
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING

    return type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)


def load_tokenizer(backbone: BackboneConfig) -> Any:
    """The backbone's fast tokenizer.

    Raises:
        UserError: none can be loaded.
    """
    path = resolve_path(backbone.tokenizer or backbone.path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=None if backbone.tokenizer else backbone.revision)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"backbone.path: no tokenizer can be loaded from '{path}' ({reason})") from error
    # Where the vocabulary files are missing, transformers makes an empty tokenizer without a word.
    if not set(tokenizer("a b c 1 2 3", add_special_tokens=False)["input_ids"]) - set(tokenizer.all_special_ids):
        raise UserError(
            f"backbone.path: the tokenizer in '{path}' has no vocabulary: add its files or set backbone.tokenizer"
        )
    return tokenizer


def config_hash(config: Any) -> str:
    """A short fingerprint of the base model's architecture, kept with adapters to refuse a mismatched base."""
    ignored = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures", *DROPOUT_KEYS}
    fields = {key: value for key, value in config.to_dict().items() if key not in ignored}
    return hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()[:16]
