"""Vectors of many texts for an objective of retrieval: texts of similar length together, so that little is padded."""

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch

from data.recall_texts import text_inputs
from modeling.heads import VectorHead
from modeling.model import SlateModel


@torch.inference_mode()
def text_vectors(
    model: SlateModel,
    name: str,
    texts: Sequence[Sequence[int] | np.ndarray],
    *,
    bare: Sequence[int] | np.ndarray,
    pad_id: int,
    max_row: int,
    max_tokens: int = 8192,
    progress: Callable[[int], None] = lambda texts: None,
) -> np.ndarray:
    """Unit vectors, float32 (texts, D), in the order of the texts.

    Args:
        model: in evaluation form.
        name: of the objective.
        texts: token ids.
        bare, pad_id, max_row: as `text_inputs` takes them.
        max_tokens: tokens of a batch.
        progress: is told how many texts have been encoded.
    """
    device = next(model.parameters()).device
    dimension = _head(model, name).project.out_features
    vectors = np.empty((len(texts), dimension), dtype=np.float32)
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    begin = 0
    while begin < len(order):
        longest = len(texts[order[min(begin + max_tokens // 4, len(order) - 1)]])
        stop = min(len(order), begin + max(1, max_tokens // max(longest, 1)))
        chosen = order[begin:stop]
        inputs = text_inputs(bare, [texts[place] for place in chosen], max_row, pad_id)
        found, _ = model.encode_texts(name, {key: value.to(device) for key, value in inputs.items()})
        vectors[chosen] = found.float().cpu().numpy()
        progress(len(chosen))
        begin = stop
    return vectors


def _head(model: SlateModel, name: str) -> VectorHead:
    return cast(VectorHead, model.heads[name])


@torch.inference_mode()
def score_weights(model: SlateModel, name: str) -> dict[str, float]:
    """Scale, prior and repeat of an objective of retrieval."""
    head = _head(model, name)
    weight = head.project.weight
    _, weights = head(torch.zeros(1, weight.shape[1], device=weight.device))
    return dict(zip(("scale", "prior", "repeat"), (float(value) for value in weights), strict=True))
