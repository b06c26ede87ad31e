"""Recall of a trained run on a split, over all items and over those never bought before, beside the baselines.

Recall@k is the fraction of what a shopper took that is among the first k of the catalogue.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from equipoise.common.console import new_console, new_table
from equipoise.common.progress import ProgressBar
from equipoise.configs.schema import RunConfig
from equipoise.data.slate_set import SlateSet
from equipoise.evaluation.metrics.bootstrap import interval
from equipoise.evaluation.recall.recall_baselines import (
    Bm25,
    CoVisitation,
    Popularity,
    RecallBaseline,
    Repeat,
    Union,
)
from equipoise.evaluation.report import winner
from equipoise.evaluation.split_scores import SplitScores
from equipoise.modeling.adapter_store import adapters_hash
from equipoise.modeling.model import SlateModel
from equipoise.modeling.recall_sources import RecallSources
from equipoise.train.recall_scores import (
    ReportStage,
    TrainedRecall,
    first_items,
    keeps_vectors,
    read_shoppers,
    recall_at,
)
from equipoise.train.recall_sources import run_sources


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
    """Ours against the best baseline at the largest cutoff, for all items and for new ones; of `Recalls`."""
    lines = []
    for which, title in TITLES.items():
        best = report["against_best"][which]
        low, high = best["interval"]
        lines.append(
            f"recall@{max(CUTOFFS)}, {title}: {best['difference']:+.3f} against {best['baseline']} "
            f"(95% interval {low:+.3f} to {high:+.3f}): {winner(low, high)}"
        )
    return lines


OURS, SOURCES = "ours", "its sources"
BLOCK = 128
"""Shoppers whose scores over the whole catalogue are held at once."""


@dataclass(frozen=True)
class Recalls:
    """Recall of every measured shopper.

    Attributes:
        of: all or new (items never bought before by the shopper, those bought left out) → ranking → float64 (cutoffs,
            S), NaN where the shopper took none such.
        rows: the slates that were measured, int64 (S,).
        items: of the catalogue.
        weights: of what stands beside the vectors.
        vectors: whether the run scores with its vectors.
    """

    of: dict[str, dict[str, np.ndarray]]
    rows: np.ndarray
    items: int
    weights: dict[str, float]
    vectors: bool

    def report(self) -> dict[str, Any]:
        """All of it, as a JSON-ready dict.

        Returns:
            shoppers, items, weights, vectors; `all` and `new`: per ranking `recall50`, `recall200` and their intervals;
            `against`: ours less each other ranking; `against_best`: less the best baseline in recall@200; paired
            intervals.
        """
        report: dict[str, Any] = {"shoppers": len(self.rows), "items": self.items}
        report |= {"weights": self.weights, "vectors": self.vectors, "against_best": {}, "against": {}}
        for which, recalls in self.of.items():
            report[which] = {key: _summary(values) for key, values in recalls.items()}
            report["against_best"][which] = _against_best({key: values[-1] for key, values in recalls.items()})
            report["against"][which] = {
                key: {
                    f"recall{cutoff}": _difference(recalls[OURS][place], values[place])
                    for place, cutoff in enumerate(CUTOFFS)
                }
                for key, values in recalls.items()
                if key != OURS
            }
        return report


def recalls_of_shoppers(
    config: RunConfig,
    model: SlateModel,
    train: SlateSet,
    slates: SlateSet,
    sources: RecallSources | None = None,
    vectors: bool = True,
    tell: ReportStage = lambda stage, done, total: None,
) -> Recalls:
    """Recall@50 and @200 of the run, of its sources alone where it has more, and of the baselines.

    Args:
        config: of the run; at most `evaluate.max_requests` requests are measured.
        model: trained, in evaluation form.
        train: the split that popularity and co-visitation are counted on.
        slates: the measured split.
        sources: what the run began as; None of a run without.
        vectors: whether the run scores with its vectors.
        tell: is told the stage, how much of it was done just now, and its size.
    """
    name = model.retrieval[0]
    shoppers = read_shoppers(slates, config.evaluate.max_requests)
    ours = TrainedRecall(model, name, train.tokens, config.tokens.max_row, sources, vectors, tell)
    encoded = ours.shoppers(slates.tokens, shoppers.rows)
    baselines = _baselines(ours, slates)
    alone = None
    if sources is not None and vectors:
        alone = TrainedRecall(model, name, train.tokens, config.tokens.max_row, sources, vectors=False)
    recalls_of: dict[str, dict[str, list[np.ndarray]]] = {"all": {}, "new": {}}
    new = [np.setdiff1d(wanted, bought) for wanted, bought in zip(shoppers.relevant, shoppers.bought, strict=True)]
    for begin in range(0, len(shoppers.rows), BLOCK):
        part = slice(begin, begin + BLOCK)
        history, queries, past = shoppers.history[part], shoppers.queries[part], shoppers.bought[part]
        tables = {OURS: ours.scores(encoded[part], past, shoppers.times[part])}
        if alone is not None:
            tables[SOURCES] = alone.scores(encoded[part], past, shoppers.times[part])
        tables |= {key: baseline.scores(history, queries) for key, baseline in baselines.items()}
        for key, scores in tables.items():
            for which, wanted, left_out in (("all", shoppers.relevant, None), ("new", new, past)):
                top = first_items(scores, max(CUTOFFS), left_out)
                recalls_of[which].setdefault(key, []).append(_recalls(top, wanted[part]))
        tell("ranking the catalogue", len(queries), len(shoppers.rows))
    of = {w: {key: np.concatenate(parts, axis=1) for key, parts in ranked.items()} for w, ranked in recalls_of.items()}
    return Recalls(of, shoppers.rows, len(ours.log_popularity), ours.weights, vectors)


def _baselines(ours: TrainedRecall, slates: SlateSet) -> dict[str, RecallBaseline]:
    items = len(ours.log_popularity)
    popular, repeat = Popularity(ours.positives.counts), Repeat(ours.positives.counts)
    together = CoVisitation(ours.positives.taken, items)
    return {
        "popularity": popular,
        "bought before": repeat,
        "co-visitation": together,
        "union": Union([repeat, together, popular]),
        "BM25": Bm25(slates.items.texts),
    }


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
    """Ours less the best of the baselines, chosen on the same shoppers, which favours it."""
    others = {key: float(np.nanmean(values)) for key, values in recalls.items() if key not in (OURS, SOURCES)}
    best = max(others, key=lambda key: others[key])
    return {"baseline": best, **_difference(recalls[OURS], recalls[best])}


def _difference(ours: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    return {"difference": float(np.nanmean(ours - other)), "interval": mean_interval(ours - other)}


def measure_recall(scores: SplitScores, split: str) -> Recalls:
    """Measure recall on a split.

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

        vectors = keeps_vectors(scores.run, adapters_hash(scores.adapters))
        return recalls_of_shoppers(scores.config, scores.model, train, slates, run_sources(scores.run), vectors, tell)


def recall_table(report: dict[str, Any]) -> Table:
    """A line per ranking: recall over all items, and over those that the shopper had never bought."""
    title = f"recall of what {report['shoppers']:,} shoppers took, out of {report['items']:,} items"
    table = new_table(title, [""], [f"{which} @{cutoff}" for which in TITLES.values() for cutoff in CUTOFFS])
    for name in report["all"]:
        values = [report[which][name][f"recall{cutoff}"] for which in TITLES for cutoff in CUTOFFS]
        table.add_row(name, *(f"{value:.3f}" for value in values))
    return table
