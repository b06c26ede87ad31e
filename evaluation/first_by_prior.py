"""What a list loses where only the candidates that the run's prior puts first pass the model (`serve --first`)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from equipoise.evaluation.metrics.bootstrap import interval, resampled_mean
from equipoise.evaluation.metrics.list_metrics import RankingMetrics, utility
from equipoise.evaluation.metrics.ranking import rank_requests
from equipoise.evaluation.metrics.score_table import ScoreTable

FIRST = (10, 20, 50, 100, 200)
"""How many may pass; numbers that leave no candidate out say nothing and are not tried."""


def first_by_prior(table: ScoreTable, prior_N: np.ndarray, cutoff: int, seed: int = 0) -> list[dict[str, Any]]:
    """NDCG@k of lists by relevance of which the first n by the prior passed the model, beside that of all.

    Candidates that did not pass stand behind those that did. Per n: `first`, `share` of the impressions that passed,
    `ndcg`, `difference` to all passing, and its 95 % `interval` over resampled requests.

    Args:
        table: N rows, scored by the model.
        prior_N: what the prior says of them, in any unit.
        cutoff: k.
        seed: of the resamples.
    """
    metrics = RankingMetrics(table, [cutoff])
    relevance_N, by_prior = utility(table, {}), rank_requests(table.request, prior_N)
    place_N = np.empty(len(prior_N), np.int64)
    place_N[by_prior.row] = by_prior.rank
    whole_R = metrics.request_ndcgs(relevance_N, cutoff)
    lowest = float(relevance_N.min()) if len(relevance_N) else 0.0
    found = []
    for first in FIRST:
        passed_N = place_N < first
        if passed_N.all():
            break
        own_R = metrics.request_ndcgs(np.where(passed_N, relevance_N, lowest - 1.0 - place_N), cutoff)
        change = resampled_mean(own_R - whole_R, seed=seed, weight=metrics.request_weight)
        found.append(
            {
                "first": first,
                "share": float(passed_N.mean()),
                "ndcg": metrics.mean(own_R),
                "difference": metrics.mean(own_R - whole_R),
                "interval": interval(change),
            }
        )
    return found


def first_sentence(rows: Sequence[Mapping[str, Any]], cutoff: int) -> str:
    """One sentence for the report."""
    told = ", ".join(
        f"{row['first']} ({row['share']:.0%} of the work) {row['difference']:+.4f} "
        f"[{row['interval'][0]:+.4f}, {row['interval'][1]:+.4f}]"
        for row in rows
    )
    return f"NDCG@{cutoff} where only the first candidates by the prior pass the model (serve --first): {told}"
