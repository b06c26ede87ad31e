"""What has been encoded, for shoppers and items that return: the least recently used go first.

Of prefixes these are keys and values, of items what a trunk makes of them that shows them no prefix.
Shape suffixes: R rows, g key heads, P tokens of a prefix (in a batch: of the longest), D head size.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import torch

from equipoise.modeling.attention.prefix_split import KVCache

Key = bytes
"""What a prefix, or an item, is known by: its token ids as bytes."""


@dataclass(frozen=True)
class PrefixState:
    """All that candidates read of one prefix.

    Attributes:
        stages: keys and values (g, P, D) of each layer: those of the trunk, then those of the upper layers, for all
            objectives at once or for one after another.
        size: their bytes.
    """

    stages: tuple[KVCache, ...]
    size: int


@dataclass(frozen=True)
class ItemState:
    """What the trunk makes of one candidate that it shows no prefix: z (L, H) of its tokens, and their bytes."""

    z: torch.Tensor
    size: int


def split_states(stages: Sequence[KVCache], lengths_R: Sequence[int]) -> list[PrefixState]:
    """The states of the prefixes of a batch, whose keys and values are (R, g, P, D), each without its padding."""
    states = []
    for row, length in enumerate(lengths_R):
        # Copies, for a view would keep the whole batch alive.
        own = tuple(
            {layer: (k[row, :, :length].clone(), v[row, :, :length].clone()) for layer, (k, v) in stage.items()}
            for stage in stages
        )
        states.append(PrefixState(own, sum(x.nbytes for stage in own for pair in stage.values() for x in pair)))
    return states


def stack_states(states: Sequence[PrefixState]) -> list[KVCache]:
    """Keys and values (R, g, P, D) of a batch with these prefixes; zeros where a prefix is shorter."""
    return [
        {layer: (_rows([s[layer][0] for s in stage]), _rows([s[layer][1] for s in stage])) for layer in stage[0]}
        for stage in zip(*(state.stages for state in states), strict=True)
    ]


def _rows(tensors_gPD: Sequence[torch.Tensor]) -> torch.Tensor:
    if len(tensors_gPD) == 1:
        return tensors_gPD[0][None]
    lengths = [x.shape[1] for x in tensors_gPD]
    if min(lengths) == max(lengths):
        return torch.stack(list(tensors_gPD))
    heads, _, size = tensors_gPD[0].shape
    rows_RgPD = tensors_gPD[0].new_zeros(len(tensors_gPD), heads, max(lengths), size)
    for row, x in enumerate(tensors_gPD):
        rows_RgPD[row, :, : x.shape[1]] = x
    return rows_RgPD


class PrefixCache:
    """States by the token ids of their prefix, and of items by theirs, at most `max_bytes` of all.

    Args:
        max_bytes: 0 keeps nothing.

    Attributes:
        hits, misses: prefixes that were found, and that had to be encoded.
        item_hits, item_misses: the same of items.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.hits = self.misses = 0
        self.item_hits = self.item_misses = 0
        self._states: OrderedDict[Key, PrefixState | ItemState] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()  # whoever watches or empties the cache does so from another thread

    @property
    def bytes(self) -> int:
        """Bytes of all states that are kept."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._states)

    @staticmethod
    def key(ids: Sequence[int]) -> Key:
        """What a prefix is known by."""
        return np.asarray(ids, np.int64).tobytes()

    @staticmethod
    def item_key(ids: Sequence[int]) -> Key:
        """What an item is known by: not what a prefix of the same ids is."""
        return b"item" + PrefixCache.key(ids)

    def get(self, key: Key) -> Any:
        """The state that was kept under a key, which counts as used now, or None."""
        with self._lock:
            state = self._states.get(key)
            if state is not None:
                self._states.move_to_end(key)
            return state

    def put(self, key: Key, state: PrefixState | ItemState) -> None:
        """Keep a state and let go of the least recently used ones to make room; one that is too large is not kept."""
        with self._lock:
            if key in self._states:
                self._bytes -= self._states.pop(key).size
            if state.size > self.max_bytes:
                return
            while self._bytes + state.size > self.max_bytes:
                self._bytes -= self._states.popitem(last=False)[1].size
            self._states[key] = state
            self._bytes += state.size

    def clear(self) -> None:
        """Forget all states; the counters stay."""
        with self._lock:
            self._states.clear()
            self._bytes = 0
