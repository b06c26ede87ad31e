"""Which merged checkpoints SGLang's multi-item scoring gives the scores of a slate.

As read in the sources of SGLang and FlashInfer on 2026-11-29 (neither is installed here): the sequence is
QUERY d ITEM d ITEM d …; a token of an item attends to the query and to its own item up to itself, never to a delimiter
(`logits_mask_multi_item_scoring`); its position is the query's length plus its place in the item
(`_process_multi_item_scoring`); the head reads the token before each delimiter, and what it reads before the first one
is dropped (`pool_at_delimiter_positions`). That is a slate as it is trained.
"""

from collections.abc import Sequence
from typing import Any

MULTI_ITEM = ("qwen2", "qwen3")
"""Architectures whose stock sequence classifier (a `score` without bias) SGLang reads before delimiters."""
ONE_BY_ONE = ("llama",)
"""Those that it serves as classifiers, but reads at the end of a prompt alone."""


def why_not_sglang(
    form: str, scope: str, config: Any, encoder: bool, beside: Sequence[str] = (), quantized: bool = False
) -> str | None:
    """Why SGLang cannot score slates by a merged checkpoint of this kind; None where it can.

    Args:
        form: of the served class.
        scope: `lora.scope` of the run.
        config: of the base model.
        encoder: whether the base is one.
        beside: what a logit holds beside the text, in words.
        quantized: whether the base is packed to 4 bits, so that nothing can be merged into it.
    """
    if encoder:
        return "an encoder's prefix must not see the candidate, and SGLang has no such mask"
    if scope == "candidates":
        return "lora.scope: candidates; merged weights act on every token"
    if quantized:
        return "backbone.quantize: adapters of a packed base cannot be merged"
    if beside:
        return f"the logit holds {' and '.join(beside)}, which no stock classifier has"
    if form != "sequence_classification":
        return "it needs the vectors of a whole slate, or a head that is no classifier's"
    if config.model_type in ONE_BY_ONE:
        return f"SGLang reads {config.model_type} classifiers at the end of a prompt, not before delimiters"
    if config.model_type not in MULTI_ITEM:
        return f"SGLang scores several items at once with {' and '.join(MULTI_ITEM)} alone"
    if getattr(config, "use_sliding_window", False):
        return "a sliding window counts tokens of other candidates as distance"
    return None
