"""A model beside the cheap methods that a shop would use instead of it, on the same rows, with paired intervals.

The words `better` and `worse` appear only where the interval of the difference says so.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from equipoise.evaluation.metrics.bootstrap import (
    LEVEL,
    interval,
    resampled_auc,
    resampled_gauc,
    resampled_mean,
    resampled_ne,
)
from equipoise.evaluation.metrics.list_metrics import RankingMetrics
from equipoise.evaluation.metrics.metric_names import WORDS, direction, target_title

PRIOR, TREES, LINEAR, POPULARITY, BOUGHT = "prior", "trees", "linear", "popularity", "bought before"
RIVALS = (PRIOR, TREES, LINEAR, POPULARITY, BOUGHT)
"""In the order in which they are shown."""

TargetRows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]
"""Label, the model's probability, request and weight of each row, (N,); no weight where all count alike."""


def compare_with_rivals(
    rows: TargetRows,
    probabilities: Mapping[str, np.ndarray],
    rankings: Mapping[str, np.ndarray],
    metrics: RankingMetrics,
    resamples: int,
    seed: int,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Rival → metric → ours, theirs, difference (ours less theirs) and its paired interval.

    Args:
        rows: of one target.
        probabilities: of the rivals that give some, (N,); they are compared in NE too.
        rankings: scores of the others, (N,).
        metrics: of the same rows.
        resamples: of the requests; 0 leaves intervals out.
        seed: of the resamples.
    """
    label, ours, request, weight = rows
    measured = _Measured(label, request, metrics, resamples, seed, weight)
    mine = measured(ours, probability=True)
    found = {}
    for name in RIVALS:
        if name not in probabilities and name not in rankings:
            continue
        theirs = measured(probabilities.get(name, rankings.get(name)), probability=name in probabilities)
        found[name] = {metric: _difference(mine[metric], theirs[metric]) for metric in theirs}
    return found


class _Measured:
    """Metrics of scores of the same rows, each with its value in every resample."""

    def __init__(
        self,
        label: np.ndarray,
        request: np.ndarray,
        metrics: RankingMetrics,
        resamples: int,
        seed: int,
        weight: np.ndarray | None,
    ) -> None:
        self.label, self.request, self.metrics, self.weight = label, request, metrics, weight
        self.resamples, self.seed = resamples, seed

    def __call__(self, score: Any, probability: bool) -> dict[str, tuple[float, np.ndarray]]:
        from equipoise.evaluation.metrics.pointwise import auc, gauc, normalized_entropy

        resampled = {"auc": resampled_auc, "gauc": resampled_gauc, "ne": resampled_ne}
        weight = self.weight
        plain = {"auc": auc(self.label, score, weight), "gauc": gauc(self.label, score, self.request, weight)}
        plain |= {"ne": normalized_entropy(self.label, score, weight)} if probability else {}
        found = {
            name: (value, resampled[name](self.label, score, self.request, self.resamples, self.seed, weight))
            for name, value in plain.items()
        }
        if self.metrics.cutoffs:
            cutoff = max(self.metrics.cutoffs)
            each = self.metrics.request_ndcgs(score, cutoff)
            samples = resampled_mean(each, self.resamples, self.seed, self.metrics.request_weight)
            found[f"ndcg@{cutoff}"] = (self.metrics.mean(each), samples)
        return found


def _difference(ours: tuple[float, np.ndarray], theirs: tuple[float, np.ndarray]) -> dict[str, Any]:
    row: dict[str, Any] = {"ours": ours[0], "theirs": theirs[0], "difference": ours[0] - theirs[0]}
    if len(ours[1]):
        row["difference_interval"] = interval(ours[1] - theirs[1])
    return row


def judgement(metric: str, row: Mapping[str, Any]) -> str:
    """`better`, `worse` or `no clear difference`, by the interval of ours less theirs; nothing without an interval."""
    low, high = row.get("difference_interval") or (math.nan, math.nan)
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return ""
    way = direction(metric)
    if low > 0 or high < 0:
        return "better" if (low > 0) == (way > 0) else "worse"
    return "no clear difference"


def rival_sentences(comparisons: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]]) -> list[str]:
    """One sentence per target and rival, of a report's `comparisons` or of what its JSON holds."""
    sentences = []
    for target, rivals in comparisons.items():
        for name, metrics in rivals.items():
            parts = [part for metric, row in metrics.items() if (part := _part(metric, row))]
            if parts:
                sentences.append(f"{target_title(target)} against {name}: {', '.join(parts)}")
    return sentences


def _part(metric: str, row: Mapping[str, Any]) -> str:
    difference = row["difference"]
    if difference is None or math.isnan(difference):
        return ""
    plain, at, cutoff = metric.partition("@")
    text = f"{WORDS[plain]}{at}{cutoff} {row['ours']:.4f} ({difference:+.4f}"
    word = judgement(metric, row)
    if word:
        low, high = row["difference_interval"]
        text += f", {LEVEL:.0%} interval {low:+.4f} to {high:+.4f}: {word}"
    return text + ")"
