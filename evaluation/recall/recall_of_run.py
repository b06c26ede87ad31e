"""Recall of a trained run on a split, over all items and over those never bought before, beside the baselines.

Recall@k is the fraction of what a shopper took that is among the first k of the catalogue.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.table import Table
from scipy import sparse

from equipoise.common.console import new_console, new_table
from equipoise.common.progress import ProgressBar
from equipoise.configs.schema import RunConfig
from equipoise.data.recall_texts import Positives, Texts
from equipoise.data.slate_set import SlateSet
from equipoise.data.token_cache import SplitTokens
from equipoise.evaluation.metrics.bootstrap import interval
from equipoise.evaluation.recall.recall_baselines import Bm25, CoVisitation, Popularity, Repeat, histories
from equipoise.evaluation.report import winner
from equipoise.evaluation.split_scores import SplitScores
from equipoise.modeling.model import SlateModel
from equipoise.modeling.text_vectors import score_weights, text_vectors
from equipoise.train.objectives.recall import retrieval_scores
from equipoise.train.validation import spread_rows


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


def mean_interval(values: np.ndarray, resamples: int = 500, seed: int = 0) -> list[float]:
    """Bootstrap interval of the mean over shoppers; NaN are left out."""
    values = values[np.isfinite(values)]
    if not len(values):
        return [float("nan"), float("nan")]
    rng = np.random.default_rng(seed)
    return interval(values[rng.integers(0, len(values), (resamples, len(values)))].mean(axis=1))


CUTOFFS = (50, 200)
TITLES = {"all": "all", "new": "never bought"}
"""The two sets of items that are ranked: the whole catalogue, and what the shopper had never bought."""


def sentences(report: dict[str, Any]) -> list[str]:
    """Ours against the best baseline at the largest cutoff, for all items and for new ones; of `evaluate_recall`."""
    lines = []
    for which, title in TITLES.items():
        best = report["against_best"][which]
        low, high = best["interval"]
        lines.append(
            f"recall@{max(CUTOFFS)}, {title}: {best['difference']:+.3f} against {best['baseline']} "
            f"(95% interval {low:+.3f} to {high:+.3f}): {winner(low, high)}"
        )
    return lines


BLOCK = 128
"""Shoppers whose scores over the whole catalogue are held at once."""

ReportStage = Callable[[str, int, int], None]


@dataclass(frozen=True)
class RecallShoppers:
    """The requests that are measured.

    Attributes:
        rows: int64, their slates.
        relevant: the items that each took.
        bought: the items that each had bought before.
        history: log(1 + times bought), (S, I).
        queries: their texts.
    """

    rows: np.ndarray
    relevant: list[np.ndarray]
    bought: list[np.ndarray]
    history: sparse.csr_array
    queries: list[str]


def read_shoppers(slates: SlateSet, most: int | None) -> RecallShoppers:
    """Up to `most` requests with a click, spread evenly over a split."""
    tokens = slates.tokens
    positives = Positives(tokens)
    indices = spread_rows(len(positives.rows), most or len(positives.rows))
    rows = positives.rows[indices]
    nothing = np.empty(0, dtype=np.int64)
    bought = [nothing if tokens.bought is None else np.asarray(tokens.bought[row], np.int64) for row in rows]
    times = [nothing if tokens.times is None else np.asarray(tokens.times[row]) for row in rows]
    history = histories(bought, times, len(tokens.cache.items))
    queries = slates.rows.select(rows.tolist())["prefix"]
    return RecallShoppers(rows, [positives.of(index) for index in indices], bought, history, list(queries))


class TrainedRecall:
    """The run's own scores, those of `retrieval_scores`, over the whole catalogue."""

    def __init__(self, model: SlateModel, name: str, train: SplitTokens, max_row: int, tell: ReportStage) -> None:
        self.model, self.name, self.texts = model, name, Texts(train.cache, max_row)
        self.weights, self.positives = score_weights(model, name), Positives(train)
        self.log_popularity = torch.from_numpy(self.positives.log_popularity())
        items = [self.texts.item(index) for index in range(len(train.cache.items))]
        self.items = self.encode(items, lambda done: tell("encoding items", done, len(items)))

    def encode(self, texts: Sequence[np.ndarray], progress: Callable[[int], None] = lambda n: None) -> np.ndarray:
        """Unit vectors of texts, float32 (texts, D)."""
        return text_vectors(self.model, self.name, self.texts, texts, progress=progress)

    def shoppers(self, tokens: SplitTokens, rows: np.ndarray) -> np.ndarray:
        """Unit vectors of the shoppers of some slates."""
        return self.encode([self.texts.shopper(tokens.prefix[row]) for row in rows])

    def scores(self, vectors: np.ndarray, history: sparse.csr_array) -> np.ndarray:
        """float32 (S, I)."""
        return retrieval_scores(
            torch.from_numpy(vectors),
            torch.from_numpy(self.items),
            self.log_popularity,
            torch.from_numpy(history.toarray()),
            torch.tensor(list(self.weights.values())),
        ).numpy()


def evaluate_recall(
    config: RunConfig,
    model: SlateModel,
    train: SlateSet,
    slates: SlateSet,
    tell: ReportStage = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Recall@50 and @200 of the run and of the baselines, as a JSON-ready dict.

    Args:
        config: of the run; at most `evaluate.max_requests` requests are measured.
        model: trained, in evaluation form.
        train: the split that popularity and co-visitation are counted on.
        slates: the measured split.
        tell: is told the stage, how much of it was done just now, and its size.

    Returns:
        shoppers, items, weights; `all` and `new` (items never bought before by the shopper, those bought left out): per
        ranking `recall50`, `recall200` and their intervals; `against_best`: for each of the two, ours less the best
        baseline in recall@200, with its paired interval.
    """
    name = model.retrieval[0]
    shoppers = read_shoppers(slates, config.evaluate.max_requests)
    ours = TrainedRecall(model, name, train.tokens, config.tokens.max_row, tell)
    vectors = ours.shoppers(slates.tokens, shoppers.rows)
    baselines: dict[str, Popularity | Repeat | CoVisitation | Bm25] = {
        "popularity": Popularity(ours.positives.counts),
        "bought before": Repeat(ours.positives.counts),
        "co-visitation": CoVisitation(ours.positives.taken, len(ours.items)),
        "BM25": Bm25(slates.items.texts),
    }
    recalls_of: dict[str, dict[str, list[np.ndarray]]] = {"all": {}, "new": {}}
    new = [np.setdiff1d(wanted, bought) for wanted, bought in zip(shoppers.relevant, shoppers.bought, strict=True)]
    for begin in range(0, len(shoppers.rows), BLOCK):
        part = slice(begin, begin + BLOCK)
        history, queries = shoppers.history[part], shoppers.queries[part]
        tables = {"ours": ours.scores(vectors[part], history)}
        tables |= {key: baseline.scores(history, queries) for key, baseline in baselines.items()}
        for key, scores in tables.items():
            top = first_items(scores, max(CUTOFFS))
            recalls_of["all"].setdefault(key, []).append(_recalls(top, shoppers.relevant[part]))
            top = first_items(scores, max(CUTOFFS), shoppers.bought[part])
            recalls_of["new"].setdefault(key, []).append(_recalls(top, new[part]))
        tell("ranking the catalogue", len(queries), len(shoppers.rows))
    report: dict[str, Any] = {
        "shoppers": len(shoppers.rows),
        "items": len(ours.items),
        "weights": ours.weights,
    }
    report["against_best"] = {}
    for which, ranked in recalls_of.items():
        recalls = {key: np.concatenate(parts, axis=1) for key, parts in ranked.items()}
        report[which] = {key: _summary(values) for key, values in recalls.items()}
        report["against_best"][which] = _against_best({key: values[-1] for key, values in recalls.items()})
    return report


def _recalls(top_SK: np.ndarray, relevant: list[np.ndarray]) -> np.ndarray:
    """float64 (cutoffs, S)."""
    return np.stack([recall_at(top_SK, relevant, cutoff) for cutoff in CUTOFFS])


def _summary(recalls: np.ndarray) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for cutoff, values in zip(CUTOFFS, recalls, strict=True):
        summary[f"recall{cutoff}"] = float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
        summary[f"recall{cutoff}_interval"] = mean_interval(values)
    return summary


def _against_best(recalls: dict[str, np.ndarray]) -> dict[str, Any]:
    """Ours less the best of the others, chosen on the same shoppers, which favours it."""
    others = {key: float(np.nanmean(values)) for key, values in recalls.items() if key != "ours"}
    best = max(others, key=lambda key: others[key])
    difference = recalls["ours"] - recalls[best]
    return {"baseline": best, "difference": float(np.nanmean(difference)), "interval": mean_interval(difference)}


def measure_recall(scores: SplitScores, split: str) -> dict[str, Any]:
    """Measure recall on a split; returns the report of `evaluate_recall`.

    Args:
        scores: of the run, with its model.
        split: its name.

    Raises:
        UserError: the split does not fit the run, or a package is missing.
    """
    folder, tokens = scores.config.data.folder, scores.tokens
    train, slates = SlateSet(folder, "train", tokens), SlateSet(folder, split, tokens)
    with ProgressBar(unit="", console=new_console(), transient=False) as bar:

        def tell(stage: str, done: int, total: int) -> None:
            bar.add(stage, total)
            bar.advance(done, stage)

        return evaluate_recall(scores.config, scores.model, train, slates, tell)


def recall_table(report: dict[str, Any]) -> Table:
    """A line per ranking: recall over all items, and over those that the shopper had never bought."""
    title = f"recall of what {report['shoppers']:,} shoppers took, out of {report['items']:,} items"
    table = new_table(title, [""], [f"{which} @{cutoff}" for which in TITLES.values() for cutoff in CUTOFFS])
    for name in report["all"]:
        values = [report[which][name][f"recall{cutoff}"] for which in TITLES for cutoff in CUTOFFS]
        table.add_row(name, *(f"{value:.3f}" for value in values))
    return table
