"""Trivial baselines: what the training data and the raw fields know without any model.

They are strong in this field, so every evaluation shows them beside ours. Rates are smoothed towards the global rate
with a Beta prior worth m impressions: (positives + m · global) / (impressions + m).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from equipoise.common.errors import UserError
from equipoise.evaluation.metrics.list_metrics import RankingMetrics
from equipoise.evaluation.metrics.pointwise import auc, gauc, target_metrics, uauc
from equipoise.evaluation.metrics.score_table import ScoreTable

STRENGTH = 20.0
CLIP = 1e-7
TARGETS = ("ctr", "ctcvr")


@dataclass(frozen=True, eq=False)
class TrainCounts:
    """Impressions and positives of the training split, by item and by user.

    With weights, each impression counts by its weight, and sums are float64.

    Attributes:
        rows: number of impressions.
        users: position of each user_id in the user arrays.
        item_rows: impressions of each item, int64 (I,).
        user_rows: impressions of each user, int64 (U,).
        item_positives, user_positives: per target ("ctr", "ctcvr") the positives of each item and user, int64.
    """

    rows: float
    users: dict[str, int]
    item_rows: np.ndarray
    user_rows: np.ndarray
    item_positives: dict[str, np.ndarray]
    user_positives: dict[str, np.ndarray]

    @classmethod
    def count(
        cls,
        user: Sequence[str] | np.ndarray,
        item: np.ndarray,
        click: np.ndarray,
        conversion: np.ndarray,
        weight: np.ndarray | None = None,
    ) -> "TrainCounts":
        """Count the training impressions.

        Args:
            user: user_id, (N,).
            item: item_index, int (N,).
            click, conversion: 0 or 1, (N,).
            weight: how much each impression counts, (N,); None counts all alike.
        """
        item = np.asarray(item, np.int64)
        users: dict[str, int] = {}
        codes = np.fromiter((users.setdefault(str(name), len(users)) for name in user), np.int64, len(user))
        click = np.asarray(click, np.int64)
        labels = {"ctr": click, "ctcvr": click * np.asarray(conversion, np.int64)}
        mass = None if weight is None else np.asarray(weight, np.float64)

        def positives(index: np.ndarray, label: np.ndarray) -> np.ndarray:
            chosen = label == 1
            return np.bincount(index[chosen], None if mass is None else mass[chosen])

        return cls(
            rows=len(item) if mass is None else float(mass.sum()),
            users=users,
            item_rows=np.bincount(item, mass),
            user_rows=np.bincount(codes, mass, minlength=len(users)),
            item_positives={target: positives(item, label) for target, label in labels.items()},
            user_positives={target: positives(codes, label) for target, label in labels.items()},
        )

    def rate(self, target: str) -> float:
        """The share of positives among all training impressions, NaN without any."""
        return float(self.item_positives[target].sum() / self.rows) if self.rows else float("nan")


def rate_baselines(
    counts: TrainCounts, target: str, item: np.ndarray, user: np.ndarray, strength: float = STRENGTH
) -> dict[str, np.ndarray]:
    """Probabilities of the rate baselines for the evaluated rows, float64 (N,) by name.

    `item x user` adds the log-odds of both against the global rate: logit(item) + logit(user) − logit(global).

    Args:
        counts: of the training split.
        target: "ctr" or "ctcvr".
        item: item_index, (N,); unseen ones get the global rate.
        user: user_id, (N,); unseen ones get the global rate.
        strength: m, the impressions that the prior is worth.
    """
    overall = counts.rate(target)
    if np.isnan(overall):
        raise UserError("the training split has no impression to count baselines from: prepare the data again")
    codes = np.fromiter((counts.users.get(str(name), -1) for name in user), np.int64, len(user))

    def smoothed(positives: np.ndarray, rows: np.ndarray, index: np.ndarray) -> np.ndarray:
        return (_at(positives, index) + strength * overall) / (_at(rows, index) + strength)

    by_item = smoothed(counts.item_positives[target], counts.item_rows, item)
    by_user = smoothed(counts.user_positives[target], counts.user_rows, codes)
    log_odds = _logit(by_item) + _logit(by_user) - _logit(np.asarray(overall))
    return {
        "global rate": np.full(len(item), overall),
        "item rate": by_item,
        "user rate": by_user,
        "item x user": 1 / (1 + np.exp(-log_odds)),
    }


def popularity(counts: TrainCounts, item: np.ndarray) -> np.ndarray:
    """Clicks of each row's item in training, float64 (N,)."""
    return _at(counts.item_positives["ctr"], item).astype(np.float64)


def field_ranking(table: ScoreTable, name: str) -> np.ndarray:
    """A raw field as a finite score, float64 (N,): its dense rank among the rows, missing values lowest (−1).

    Raises:
        UserError: the table keeps no such field.
    """
    if name not in table.fields:
        known = ", ".join(table.fields) or "none"
        raise UserError(f"field baseline '{name}' is not kept (kept: {known}): add it to data.fields and prepare again")
    values = table.fields[name]
    missing = np.isnan(values)
    ranks = np.full(len(values), -1.0)
    ranks[~missing] = np.unique(values[~missing], return_inverse=True)[1]
    return ranks


def baseline_scores(
    table: ScoreTable, counts: TrainCounts | None, target: str, fields: Sequence[str] = ()
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Rates (probabilities) and rankings (scores) of all baselines of one target, float64 (N,) by name.

    Without counts only the raw fields are left.
    """
    rankings = {name: field_ranking(table, name) for name in fields}
    if counts is None:
        return {}, rankings
    rates = rate_baselines(counts, target, table.item, table.user)
    return rates, {"item popularity": popularity(counts, table.item), **rankings}


def baseline_metrics(
    rates: dict[str, np.ndarray],
    rankings: dict[str, np.ndarray],
    label: np.ndarray,
    request: np.ndarray,
    ranking_metrics: RankingMetrics,
    user: np.ndarray | None = None,
    weight: np.ndarray | None = None,
) -> dict[str, dict[str, Any]]:
    """Metrics of each baseline: all pointwise ones for rates, AUC and GAUC for rankings, NDCG for both.

    With `user`, (N,), UAUC too. `weight` says how much each row counts, (N,).
    """
    metrics: dict[str, dict[str, Any]] = {}
    for name, probability in rates.items():
        metrics[name] = target_metrics(label, probability, request, user, weight) | ranking_metrics.ndcgs(probability)
    for name, score in rankings.items():
        metrics[name] = {"auc": auc(label, score, weight), "gauc": gauc(label, score, request, weight)}
        metrics[name] |= ranking_metrics.ndcgs(score)
        metrics[name] |= {} if user is None else {"uauc": uauc(label, score, user, weight)}
    return metrics


def _at(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """values[index], 0 where the index is −1 or beyond the end."""
    padded = np.append(values, 0)
    inside = (index >= 0) & (index < len(values))
    return padded[np.where(inside, index, len(values))]


def _logit(probability: np.ndarray) -> np.ndarray:
    """Log-odds; clipped, so that a rate of 0 or 1 stays finite."""
    clipped = np.clip(probability, CLIP, 1 - CLIP)
    return np.log(clipped) - np.log1p(-clipped)
