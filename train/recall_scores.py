"""Recall of a run: its scores over the whole catalogue, and whether its vectors help what it began as.

Recall@k is the fraction of what a shopper took that is among the first k of the catalogue.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from equipoise.common.atomic import atomic_write
from equipoise.common.errors import UserError
from equipoise.data.recall_texts import Positives, Texts
from equipoise.data.slate_set import SlateSet
from equipoise.data.token_cache import SplitTokens
from equipoise.modeling.model import SlateModel
from equipoise.modeling.recall_sources import RecallSources
from equipoise.modeling.text_vectors import score_weights, text_vectors
from equipoise.train.recall_fit import past
from equipoise.train.recall_sources import FOLDER
from equipoise.train.validation import spread_rows

ReportStage = Callable[[str, int, int], None]
CHOICE = "vectors.json"
CHOICE_CUTOFF, CHOICE_SHOPPERS = 200, 300
CHOICE_CONFIDENCE, CHOICE_RESAMPLES = 0.95, 1000


def histories(bought: Sequence[np.ndarray], times: Sequence[np.ndarray], items: int) -> sparse.csr_array:
    """log(1 + times bought), float32 (S, I), of shoppers given as item numbers and counts."""
    sizes = [len(item_numbers) for item_numbers in bought]
    values = np.log1p(np.concatenate([*times, np.empty(0)])).astype(np.float32)
    columns = np.concatenate([*bought, np.empty(0, dtype=np.int64)]).astype(np.int64)
    return sparse.csr_array((values, columns, np.cumsum([0, *sizes])), shape=(len(bought), items))


def first_items(scores_SI: np.ndarray, k: int, exclude: Sequence[np.ndarray] | None = None) -> np.ndarray:
    """The best k items of every shopper, int64 (S, k), best first, equal ones by number; −1 where none is left."""
    top = np.full((len(scores_SI), k), -1, dtype=np.int64)
    for row, scores in enumerate(scores_SI):
        scores = np.array(scores, dtype=np.float64)
        if exclude is not None:
            scores[exclude[row]] = -np.inf
        order = np.argsort(-scores, kind="stable")[:k]
        order = order[np.isfinite(scores[order])]
        top[row, : len(order)] = order
    return top


def recall_at(top_SK: np.ndarray, relevant: Sequence[np.ndarray], cutoff: int) -> np.ndarray:
    """The share of each shopper's relevant items among the first `cutoff`, float64 (S,); NaN where there is none."""
    recalls = np.full(len(top_SK), np.nan)
    for row, wanted in enumerate(relevant):
        if len(wanted):
            recalls[row] = np.isin(wanted, top_SK[row, :cutoff]).mean()
    return recalls


@dataclass(frozen=True)
class RecallShoppers:
    """The requests that are measured.

    Attributes:
        rows: int64, their slates.
        relevant: the items that each took.
        bought: the items that each had bought before.
        times: how often.
        history: log(1 + times bought), (S, I).
        queries: their texts.
    """

    rows: np.ndarray
    relevant: list[np.ndarray]
    bought: list[np.ndarray]
    times: list[np.ndarray]
    history: sparse.csr_array
    queries: list[str]


def read_shoppers(slates: SlateSet, most: int | None) -> RecallShoppers:
    """Up to `most` requests with a click, spread evenly over a split."""
    tokens = slates.tokens
    positives = Positives(tokens)
    indices = spread_rows(len(positives.rows), most or len(positives.rows))
    rows = positives.rows[indices]
    pasts = [past(tokens, int(row)) for row in rows]
    bought, times = [items for items, _ in pasts], [counts for _, counts in pasts]
    history = histories(bought, times, len(tokens.cache.items))
    queries = slates.rows.select(rows.tolist())["prefix"]
    return RecallShoppers(rows, [positives.of(index) for index in indices], bought, times, history, list(queries))


class TrainedRecall:
    """The run's own scores over the whole catalogue: its sources, and its vectors with their weights.

    Args:
        model: trained, in evaluation form.
        name: of the objective.
        train: tokens of the train split.
        max_row: most tokens of a row.
        sources: what the run began as; None of a run without.
        vectors: false leaves all that training added out, and encodes nothing.
        tell: is told the stage, how much of it was done just now, and its size.
    """

    def __init__(
        self,
        model: SlateModel,
        name: str,
        train: SplitTokens,
        max_row: int,
        sources: RecallSources | None = None,
        vectors: bool = True,
        tell: ReportStage = lambda stage, done, total: None,
    ) -> None:
        self.model, self.name, self.texts, self.sources = model, name, Texts(train.cache, max_row), sources
        self.weights = score_weights(model, name)
        if not vectors:
            self.weights = dict.fromkeys(self.weights, 0.0)
        self.positives = Positives(train)
        self.log_popularity = self.positives.log_popularity()
        count = len(train.cache.items)
        items = [self.texts.item(index) for index in range(count)] if vectors else []
        self.items = self.encode(items, lambda done: tell("encoding items", done, count))

    def encode(self, texts: Sequence[np.ndarray], progress: Callable[[int], None] = lambda n: None) -> np.ndarray:
        """Unit vectors of texts, float32 (texts, D)."""
        return text_vectors(self.model, self.name, self.texts, texts, progress=progress)

    def shoppers(self, tokens: SplitTokens, rows: np.ndarray) -> np.ndarray:
        """Unit vectors of the shoppers of some slates; without vectors, of no width."""
        if not len(self.items):
            return np.empty((len(rows), 0), np.float32)
        return self.encode([self.texts.shopper(tokens.prefix[row]) for row in rows])

    def scores(self, vectors: np.ndarray, bought: Sequence[np.ndarray], times: Sequence[np.ndarray]) -> np.ndarray:
        """float32 (S, I).

        Args:
            vectors: of the shoppers.
            bought, times: what each had bought, and how often.
        """
        scores_SI = np.empty((len(bought), len(self.log_popularity)), np.float32)
        scores_SI[:] = self.weights["prior"] * self.log_popularity
        for row, (items, counts) in enumerate(zip(bought, times, strict=True)):
            scores_SI[row, items] += self.weights["repeat"] * np.log1p(counts)
            if self.sources is not None:
                scores_SI[row] += self.sources.scores(items, counts)
        if len(self.items):
            scores_SI += self.weights["scale"] * vectors @ self.items.T
        return scores_SI


def choose_vectors(
    model: SlateModel,
    name: str,
    train: SlateSet,
    valid: SlateSet,
    max_row: int,
    sources: RecallSources,
    tell: ReportStage = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Whether the vectors help the sources: mean of recall@200 over all items and over those never bought, on valid.

    They are kept where that mean is higher in CHOICE_CONFIDENCE of the resamples of the shoppers: after a short
    training most gains are chance, and the sources are what a shop would use instead.

    Args:
        model: trained, in evaluation form.
        name: of the objective.
        train, valid: the splits; up to CHOICE_SHOPPERS requests of valid are asked for.
        max_row: most tokens of a row.
        sources: of the run.
        tell: see `TrainedRecall`.

    Returns:
        kept; with and without (the measure); higher_in_resamples; shoppers.
    """
    shoppers = read_shoppers(valid, CHOICE_SHOPPERS)
    found = []
    for vectors in (True, False):
        ours = TrainedRecall(model, name, train.tokens, max_row, sources, vectors, tell)
        encoded = ours.shoppers(valid.tokens, shoppers.rows)
        parts = []
        for row, (bought, wanted) in enumerate(zip(shoppers.bought, shoppers.relevant, strict=True)):
            scores = ours.scores(encoded[row : row + 1], [bought], [shoppers.times[row]])
            new = np.setdiff1d(wanted, bought)
            parts.append(
                [
                    recall_at(first_items(scores, CHOICE_CUTOFF), [wanted], CHOICE_CUTOFF)[0],
                    recall_at(first_items(scores, CHOICE_CUTOFF, [bought]), [new], CHOICE_CUTOFF)[0],
                ]
            )
        found.append(np.array(parts).reshape(-1, 2))
    count = len(shoppers.rows)
    draws_BS = np.random.default_rng(0).multinomial(count, np.full(count, 1 / max(count, 1)), CHOICE_RESAMPLES)
    measures = [_measures(each, np.concatenate([np.ones((1, count)), draws_BS])) for each in found]
    share = float((measures[0][1:] > measures[1][1:]).mean())
    choice = {"kept": share >= CHOICE_CONFIDENCE, "with": float(measures[0][0]), "without": float(measures[1][0])}
    return choice | {"higher_in_resamples": share, "shoppers": count}


def _measures(recalls_S2: np.ndarray, counts_BS: np.ndarray) -> np.ndarray:
    """The mean of both recalls, each over the shoppers that have one, float64 (B,); 0 where none has."""
    finite = np.isfinite(recalls_S2)
    sums_B2, shown_B2 = counts_BS @ np.where(finite, recalls_S2, 0.0), counts_BS @ finite
    means_B2 = np.divide(sums_B2, shown_B2, out=np.full(sums_B2.shape, np.nan), where=shown_B2 > 0)
    known = np.isfinite(means_B2)
    return np.where(known, means_B2, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)


def write_choice(run: Path, choice: dict[str, Any], adapters: str) -> None:
    """Write a choice into the sources of a run; it holds for the adapters of this sha256 alone."""
    with atomic_write(run / FOLDER / CHOICE) as partial:
        partial.write_text(json.dumps(choice | {"adapters": adapters}, indent=2) + "\n", "utf-8")


def keeps_vectors(run: Path, adapters: str) -> bool:
    """Whether a run scores with its vectors: it does where nothing was chosen for these adapters.

    Raises:
        UserError: the choice cannot be read.
    """
    path = run / FOLDER / CHOICE
    if not path.is_file():
        return True
    try:
        choice = json.loads(path.read_text("utf-8"))
        return bool(choice["kept"]) or choice["adapters"] != adapters
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read: delete it to keep the vectors, or train again") from error
