"""A slate as SGLang's multi-item scoring computes it, in plain PyTorch: sequence, positions, mask, and what is read."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

DELIMITER = 9999
"""The token that SGLang puts before every item and after the last one."""


@dataclass(frozen=True)
class MultiItemSequence:
    """QUERY d ITEM d ITEM d … d, of S tokens.

    Attributes:
        ids: int64 (1, S).
        delimiters: where they stand.
        positions: int64 (1, S).
        allowed: bool (S, S), query by key.
    """

    ids: torch.Tensor
    delimiters: list[int]
    positions: torch.Tensor
    allowed: torch.Tensor


def multi_item_sequence(query: Sequence[int], items: Sequence[Sequence[int]], delimiter: int) -> MultiItemSequence:
    """The one sequence that a request of several items becomes."""
    ids, delimiters, inside = list(query), [], [0] * len(query)
    for item in items:
        delimiters.append(len(ids))
        ids += [delimiter, *item]
        inside += range(len(item) + 1)
    delimiters.append(len(ids))
    ids.append(delimiter)
    inside.append(0)
    prefix, size = len(query), len(ids)
    place, within = torch.arange(size), torch.tensor(inside)
    # FlashInfer masks what lies ahead, and for an item's token also what lies between the query and its item.
    row, column = place[:, None], place[None, :]
    own = (column < prefix) | (row < column + within[:, None])
    allowed = (column <= row) & ((row < prefix) | own)
    positions = torch.where(place < prefix, place, prefix + within - 1)
    return MultiItemSequence(torch.tensor([ids]), delimiters, positions[None], allowed)


@torch.inference_mode()
def multi_item_scores(
    classifier: nn.Module, query: Sequence[int], items: Sequence[Sequence[int]], delimiter: int = DELIMITER
) -> torch.Tensor:
    """Logits of the items, float32 (items,), by a stock sequence classifier."""
    sequence = multi_item_sequence(query, items, delimiter)
    mask = torch.zeros(sequence.allowed.shape).masked_fill(~sequence.allowed, torch.finfo(torch.float32).min)
    hidden = classifier.model(
        input_ids=sequence.ids, attention_mask=mask[None, None], position_ids=sequence.positions, use_cache=False
    ).last_hidden_state
    before = torch.tensor(sequence.delimiters) - 1
    return classifier.score(hidden[0, before])[1:, 0]  # the query's own end is dropped
