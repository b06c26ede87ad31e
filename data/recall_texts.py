"""Shoppers and items as texts of their own, and which of them compete in a training batch for recall.

Shape suffixes: B shoppers of a batch, C items that compete in it, I items of the catalogue.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np
import torch

from equipoise.common.errors import UserError
from equipoise.data.batches import RecallBatch, Slate, build_batch
from equipoise.data.ragged import Ragged
from equipoise.data.token_cache import SplitTokens, TokenCache

_DRAWING = 5
"""Keeps these draws apart from others of the same seed and number."""

Ids = TypeVar("Ids", list[int], np.ndarray)

TEXT_INPUTS = ("input_ids", "position_ids", "segment_ids", "candidate_tokens")


class TextEnds(Protocol):
    """What decides how texts are laid out: a token cache or a `SlateTokenizer`."""

    pad_id: int

    @property
    def start(self) -> Sequence[int] | np.ndarray:
        """The ids that every prefix begins with."""

    @property
    def candidate_end(self) -> Sequence[int] | np.ndarray:
        """The ids that end every candidate."""


ScoresBeside = Callable[[SplitTokens, int], np.ndarray]
"""Tokens of a split and the number of a slate → float32 (I,)."""


class TextLayout:
    """How token ids become texts of their own.

    Args:
        ends: of the tokens.
        max_row: most tokens of a row.
    """

    def __init__(self, ends: TextEnds, max_row: int) -> None:
        self.start, self.pad_id, self.max_row = ends.start, ends.pad_id, max_row
        self.bare = ends.start if len(ends.start) else ends.candidate_end

    def shopper(self, prefix: Ids) -> Ids:
        """A slate's prefix as a text: what follows the token that starts it."""
        return prefix[len(self.start) :]

    def inputs(self, texts: Sequence[Sequence[int] | np.ndarray]) -> dict[str, torch.Tensor]:
        """Model inputs of some texts, each alone behind a bare prefix."""
        return text_inputs(self.bare, texts, self.max_row, self.pad_id)


class Texts(TextLayout):
    """Token ids of the shoppers and items of a prepared folder as texts of their own.

    Args:
        cache: the tokens of the folder.
        max_row: most tokens of a row.
    """

    def __init__(self, cache: TokenCache, max_row: int) -> None:
        super().__init__(cache, max_row)
        self.cache = cache

    def item(self, index: int) -> np.ndarray:
        """An item's text, as a candidate without context ends."""
        return np.concatenate([self.cache.items[index][: self.cache.room], self.cache.candidate_end])


def text_inputs(
    bare: Sequence[int] | np.ndarray, texts: Sequence[Sequence[int] | np.ndarray], max_row: int, pad_id: int
) -> dict[str, torch.Tensor]:
    """Model inputs of texts that do not see each other.

    Args:
        bare: the token or tokens that stand before each text.
        texts: token ids.
        max_row, pad_id: as `build_batch` takes them.
    """
    none = np.zeros(len(texts), dtype=np.int64)
    batch = build_batch([Slate(0, bare, texts, none, none, none)], max_row, pad_id)
    return {name: getattr(batch, name) for name in TEXT_INPUTS}


class Positives:
    """The clicked items of a split, request by request.

    Args:
        tokens: of the split.

    Attributes:
        rows: int64, the slates that have a click.
        taken: the clicked items, int64, of each of these slates.
        weight: how much each of them counts, float32, in the same order; None where all count alike.
        counts: int64 (I,), how many clicks each item has.
    """

    def __init__(self, tokens: SplitTokens) -> None:
        clicks = np.flatnonzero(tokens.click == 1)
        owner = np.searchsorted(tokens.first, clicks, side="right") - 1
        items = tokens.item[clicks].astype(np.int64)
        catalogue = len(tokens.cache.items)
        self.rows, begins = np.unique(owner, return_index=True)
        self.taken = Ragged(items, np.append(begins, len(items)))
        self.weight = None if tokens.weight is None else Ragged(tokens.weight[clicks], self.taken.offsets)
        self.counts = np.bincount(items, minlength=catalogue)

    def of(self, index: int) -> np.ndarray:
        """The clicked items, int64, of the slate `rows[index]`."""
        return self.taken[index]

    def chances(self, among: np.ndarray) -> np.ndarray:
        """The chance of each item, float64 (I,), where one of the rows `among` and then one of its clicks is drawn."""
        sizes = self.taken.lengths()[among]
        items = self.taken.heads(among, sizes)
        share = 1.0 / np.repeat(sizes, sizes) / max(len(among), 1)
        return np.bincount(items, weights=share, minlength=len(self.counts))

    def log_popularity(self) -> np.ndarray:
        """log p_i, float32 (I,): shares of the clicks, half a click added to each item."""
        smoothed = self.counts + 0.5
        return np.log(smoothed / smoothed.sum()).astype(np.float32)


class RecallDraws:
    """Global micro-batch number → this process's `RecallBatch`: a function of seed, number and rank alone.

    Args:
        tokens: of the training split.
        shoppers, negatives: per batch; see `RecallConfig`.
        max_row: most tokens of a row.
        seed, rank: of the run and the process.
        among: the requests with a click that are drawn, numbers of `Positives.rows`; None draws all.
        beside: what the score of every item holds beside the vectors, for the shopper of a slate; None holds nothing.

    Raises:
        UserError: there are fewer requests to draw than `shoppers`.
    """

    def __init__(
        self,
        tokens: SplitTokens,
        shoppers: int,
        negatives: int,
        max_row: int,
        seed: int,
        rank: int,
        among: np.ndarray | None = None,
        beside: ScoresBeside | None = None,
    ) -> None:
        self.tokens, self.shoppers, self.negatives = tokens, shoppers, negatives
        self.seed, self.rank = seed, rank
        self.texts = Texts(tokens.cache, max_row)
        self.positives = Positives(tokens)
        self.among = np.arange(len(self.positives.rows)) if among is None else among
        self.beside = beside
        if len(self.among) < shoppers:
            which = "training requests" if among is None else "of the latest training requests (fit_share)"
            raise UserError(
                f"objectives.recall.shoppers: {shoppers}, but only {len(self.among)} {which} have a click: lower it, "
                "or leave objectives.recall out"
            )
        self.log_popularity = self.positives.log_popularity()
        catalogue = len(self.log_popularity)
        drawn = np.minimum(self.positives.chances(self.among), 1 - 1e-9)
        absent = shoppers * np.log1p(-drawn) + negatives * np.log1p(-1 / catalogue)
        # An item that neither is clicked nor can be drawn competes only where it is the one taken, so never.
        self.log_sampled = np.log(np.maximum(-np.expm1(absent), 1e-12)).astype(np.float32)

    def draw(self, number: int, source_of: Callable[[int], SplitTokens]) -> RecallBatch:
        """The batch of global micro-batch `number`; `source_of` says which tokens a slate of the split has."""
        rng = np.random.default_rng([self.seed, number, self.rank, _DRAWING])
        drawn = self.among[rng.choice(len(self.among), self.shoppers, replace=False)]
        taken = [self.positives.of(index) for index in drawn]
        chosen = np.array([rng.choice(items) for items in taken])
        items = np.unique(np.concatenate([chosen, rng.integers(0, len(self.log_popularity), self.negatives)]))
        target = np.searchsorted(items, chosen)
        also = np.stack([np.isin(items, positives) for positives in taken])
        also[np.arange(self.shoppers), target] = False
        weight = self.positives.weight
        counts = None
        if weight is not None:
            picked = zip(drawn, taken, chosen, strict=True)
            counts = np.array([weight[index][np.flatnonzero(took == item)[0]] for index, took, item in picked])
        rows = self.positives.rows[drawn]
        sources = [source_of(int(row)) for row in rows]
        texts = [self.texts.shopper(source.prefix[row]) for source, row in zip(sources, rows, strict=True)]
        times = [log_times(source, int(row), items) for source, row in zip(sources, rows, strict=True)]
        beside = np.zeros((self.shoppers, len(items)), np.float32)
        if self.beside is not None:
            for place, (source, row) in enumerate(zip(sources, rows, strict=True)):
                beside[place] = self.beside(source, int(row))[items]
        return RecallBatch(
            texts=self.texts.inputs([*texts, *(self.texts.item(int(item)) for item in items)]),
            target=torch.from_numpy(target),
            log_popularity=torch.from_numpy(self.log_popularity[items]),
            log_sampled=torch.from_numpy(self.log_sampled[items]),
            log_times=torch.from_numpy(np.stack(times)),
            beside=torch.from_numpy(beside),
            also=torch.from_numpy(also),
            weight=None if counts is None else torch.from_numpy(counts.astype(np.float32)),
        )


def log_times(tokens: SplitTokens, row: int, items: np.ndarray) -> np.ndarray:
    """log(1 + times bought) of `items` (ascending), float32, by the shopper of a slate; 0 where it is not kept."""
    out = np.zeros(len(items), dtype=np.float32)
    if tokens.bought is not None and tokens.times is not None:
        _, at, of = np.intersect1d(items, tokens.bought[row], assume_unique=True, return_indices=True)
        out[at] = np.log1p(tokens.times[row][of])
    return out
