"""What recall has to beat: popularity, repeat purchases, co-visitation and BM25, as scores over the whole catalogue.

Shape suffixes: S shoppers, I items.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from scipy import sparse

from equipoise.common.errors import UserError
from equipoise.data.ragged import Ragged


class RecallBaseline(Protocol):
    """A simple method."""

    def scores(self, history: sparse.csr_array, queries: Sequence[str]) -> np.ndarray:
        """float32 (S, I), of log(1 + times bought) and the shoppers' texts."""


class Popularity:
    """The same list for everybody: how many training positives an item has."""

    def __init__(self, counts: np.ndarray) -> None:
        self.counts = counts.astype(np.float32)

    def scores(self, history: sparse.csr_array, queries: Sequence[str]) -> np.ndarray:
        """float32 (S, I)."""
        return np.broadcast_to(self.counts, (history.shape[0], len(self.counts)))


class Repeat:
    """What the shopper has bought most often, then what is popular: the trivial baseline of groceries."""

    def __init__(self, counts: np.ndarray) -> None:
        self.share = counts / (counts.sum() + 1.0)  # below any log(1 + 1)

    def scores(self, history: sparse.csr_array, queries: Sequence[str]) -> np.ndarray:
        """float32 (S, I)."""
        return (history.toarray() + 0.5 * self.share).astype(np.float32)


class CoVisitation:
    """Item-item co-occurrence within training requests, as cosines; an item goes with itself (Sarwar et al. 2001).

    score(i) = Σ_j log(1 + times_j) · n_ij / √(n_i n_j) over what the shopper bought.
    """

    def __init__(self, positives: Ragged, items: int) -> None:
        ones = np.ones(len(positives.values), dtype=np.float32)
        taken = sparse.csr_array((ones, positives.values, positives.offsets), shape=(len(positives), items))
        together = (taken.T @ taken).tocsr()
        scale = sparse.diags_array(1.0 / np.sqrt(np.maximum(together.diagonal(), 1.0)))
        self.similarity = (scale @ together @ scale).tocsr()

    def scores(self, history: sparse.csr_array, queries: Sequence[str]) -> np.ndarray:
        """float32 (S, I)."""
        return (history @ self.similarity).toarray().astype(np.float32)


class Union:
    """The lists of several methods, an item in turn from each, each item once."""

    def __init__(self, methods: Sequence[RecallBaseline]) -> None:
        self.methods = methods

    def scores(self, history: sparse.csr_array, queries: Sequence[str]) -> np.ndarray:
        """float32 (S, I): less the earliest turn at which an item is taken."""
        turns = []
        for place, method in enumerate(self.methods):
            order = np.argsort(-method.scores(history, queries), axis=1, kind="stable")
            rank = np.empty_like(order)
            np.put_along_axis(rank, order, np.arange(order.shape[1])[None], axis=1)
            turns.append(rank * len(self.methods) + place)
        return -np.min(turns, axis=0).astype(np.float32)


class Bm25:
    """The shopper's text as query, the items' texts as documents (Okapi BM25, k₁ = 1.5, b = 0.75; package bm25s)."""

    def __init__(self, texts: Sequence[str]) -> None:
        try:
            import bm25s
        except ImportError as error:
            raise UserError("the BM25 baseline needs its package: run `pip install equipoise[recall]`") from error
        self._words = lambda text: [word for word in text.lower().replace(",", " ").split() if word]
        self.index = bm25s.BM25(k1=1.5, b=0.75)
        self.index.index([self._words(text) for text in texts], show_progress=False)

    def scores(self, history: sparse.csr_array, queries: Sequence[str]) -> np.ndarray:
        """float32 (S, I)."""
        return np.stack([self.index.get_scores(self._words(query)) for query in queries]).astype(np.float32)
