"""The things that a slate's candidates are compared with: numbers of texts, and the frozen vectors of those texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch


@dataclass(frozen=True)
class SlateThings:
    """What the candidates of one slate are compared with.

    Attributes:
        history: int (H,), rows of `vectors`: distinct things, the latest first.
        candidate: int (C,), rows of `vectors`; −1 where nothing is known of the candidate's thing.
        vectors: float (T, D), of unit length; may be a mapped file, for only what is named is read.
    """

    history: np.ndarray
    candidate: np.ndarray
    vectors: np.ndarray


def join_things(slates: Sequence[SlateThings]) -> dict[str, torch.Tensor]:
    """Several slates as the model reads them, `equipoise.modeling.comparison` says how: vectors, history, candidate.

    A thing that several slates name is there once for each.
    """
    tables, histories, candidates, first = [], [], [], 0
    longest = max((len(slate.history) for slate in slates), default=0)
    for slate in slates:
        named = np.concatenate([slate.history, slate.candidate]).astype(np.int64)
        things, codes = np.unique(named, return_inverse=True)
        unknown = int(np.searchsorted(things, 0))  # 1 where −1 is among them
        own = np.where(named < 0, -1, codes - unknown + first)
        history = np.full(longest, -1, dtype=np.int64)
        history[: len(slate.history)] = own[: len(slate.history)]
        histories.append(history)
        candidates.append(own[len(slate.history) :])
        tables.append(np.asarray(slate.vectors[things[unknown:]], dtype=np.float32))
        first += len(things) - unknown
    width = tables[0].shape[1]
    vectors = np.concatenate([*tables, np.zeros((int(first == 0), width), np.float32)])  # one row at least, to index
    return {
        "vectors": torch.from_numpy(vectors),
        "history": torch.from_numpy(np.stack(histories)),
        "candidate": torch.from_numpy(np.concatenate(candidates)),
    }


@dataclass(frozen=True)
class ThingTexts:
    """What the candidates of a request are compared with, as texts.

    Attributes:
        history: of the shopper's events, the latest first; blank and repeated ones do not count.
        candidates: of every candidate, "" where nothing is known of its thing.
        computed: columns float32 (C,) that are known already, as of a prepared slate, by name.
    """

    history: Sequence[str]
    candidates: Sequence[str]
    computed: Mapping[str, np.ndarray] = field(default_factory=dict)
