"""Vectors of many texts for an objective of retrieval: texts of similar length together, so that little is padded."""

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch

from equipoise.data.recall_texts import TextLayout
from equipoise.modeling.heads import VectorHead
from equipoise.modeling.model import SlateModel


@torch.inference_mode()
def text_vectors(
    model: SlateModel,
    name: str,
    layout: TextLayout,
    texts: Sequence[Sequence[int] | np.ndarray],
    *,
    max_tokens: int = 8192,
    progress: Callable[[int], None] = lambda texts: None,
) -> np.ndarray:
    """Unit vectors, float32 (texts, D), in the order of the texts.

    Args:
        model: in evaluation form.
        name: of the objective.
        layout: of the texts.
        texts: token ids.
        max_tokens: tokens of a batch.
        progress: is told how many texts have been encoded.
    """
    device = next(model.parameters()).device
    dimension = _head(model, name).project.out_features
    vectors = np.empty((len(texts), dimension), dtype=np.float32)
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    begin = 0
    while begin < len(order):
        longest = len(texts[order[min(begin + max_tokens // 4, len(order) - 1)]])
        stop = min(len(order), begin + max(1, max_tokens // max(longest, 1)))
        chosen = order[begin:stop]
        inputs = layout.inputs([texts[index] for index in chosen])
        encoded, _ = model.encode_texts(name, {key: value.to(device) for key, value in inputs.items()})
        vectors[chosen] = encoded.float().cpu().numpy()
        progress(len(chosen))
        begin = stop
    return vectors


def _head(model: SlateModel, name: str) -> VectorHead:
    return cast(VectorHead, model.heads[name])


@torch.inference_mode()
def score_weights(model: SlateModel, name: str) -> dict[str, float]:
    """Scale, prior and repeat of an objective of retrieval."""
    return dict(zip(("scale", "prior", "repeat"), _head(model, name).weights().tolist(), strict=True))
