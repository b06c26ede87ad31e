"""Operating points: the utility that a weight per adjustment gives, and the ranking metrics there."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from equipoise.common.errors import UserError
from equipoise.configs.objective_spec import OwnAxis
from equipoise.evaluation.metrics.codes import encode
from equipoise.evaluation.metrics.pointwise import weighted_gauc
from equipoise.evaluation.metrics.ranking import (
    coverage,
    exposure,
    gains,
    intra_list_diversity,
    item_gini,
    mean_of_top,
    ndcg,
    novelty,
    rank_requests,
    request_ndcg,
    serendipity,
)
from equipoise.evaluation.metrics.score_table import ScoreTable
from equipoise.evaluation.metrics.table_lists import TableLists, path_codes


def utility(table: ScoreTable, omega: Mapping[str, float]) -> np.ndarray:
    """A score whose order is that of the table's lists under ω, float64 (N,): r itself where ω is 0.

    Raises:
        UserError: ω names no adjustment of the table.
    """
    return TableLists(table, table.delta, table.lists)(table.relevance, omega)


class RankingMetrics:
    """The ranking metrics of one table, for many scores: what does not depend on the score is prepared once.

    Where the table has weights, NDCG multiplies each gain by its row's weight, and a request counts by the mean weight
    of its rows. ILD, coverage, exposure and measures of users' own describe the lists as they are, and take none.

    Args:
        table: N rows.
        cutoffs: the k of all metrics @k.
        diversity_attributes: path of item attributes, coarse to fine; empty leaves ILD out.
        category_attribute: whose values coverage counts; None leaves it out.
        provider_attribute: whose groups share exposure; None leaves it out.
        own_axes: measures of users' own objectives.
        popularity: each row's item's clicks in training, (N,), for novelty and serendipity; None leaves them out.

    Raises:
        UserError: the table keeps no such item attribute.
    """

    def __init__(
        self,
        table: ScoreTable,
        cutoffs: Sequence[int],
        diversity_attributes: Sequence[str] = (),
        category_attribute: str | None = None,
        provider_attribute: str | None = None,
        own_axes: Sequence[OwnAxis] = (),
        popularity: np.ndarray | None = None,
    ) -> None:
        self.item, self.click = table.item, table.click
        self.information: np.ndarray | None = None
        if popularity is not None and len(table):
            share = (popularity + 1.0) / (popularity[np.unique(table.item, return_index=True)[1]] + 1.0).sum()
            self.information, self.popular = -np.log2(share), rank_requests(table.request, popularity)
        self.request, self.cutoffs = table.request, tuple(cutoffs)
        self.gain = gains(table.click, table.conversion)
        self.request_weight: np.ndarray | None = None
        if table.weight is not None:
            self.gain = self.gain * table.weight
            self.request_weight = request_weights(table.request, table.weight)
        self.paths = path_codes(table, tuple(diversity_attributes)) if diversity_attributes else None
        self.category = _row_codes(table, category_attribute)
        self.provider = _row_codes(table, provider_attribute)
        self.own = {axis.name: own_gain(table, axis) for axis in own_axes}

    def ndcgs(self, score: np.ndarray) -> dict[str, float]:
        """NDCG of a ranking by `score` (N,): "ndcg@K" at every cutoff, and "ndcg" over whole lists."""
        ranking = rank_requests(self.request, score)
        cutoffs = (*self.cutoffs, None)
        return {_key("ndcg", cutoff): ndcg(ranking, self.gain, cutoff, self.request_weight) for cutoff in cutoffs}

    def request_ndcgs(self, score: np.ndarray, cutoff: int) -> np.ndarray:
        """NDCG@k of each request's ranking by `score` (N,), float64 (R,), NaN without a click."""
        return request_ndcg(rank_requests(self.request, score), self.gain, cutoff)

    def mean(self, values: np.ndarray) -> float:
        """The mean of one number per request (R,), those that are NaN left out, each by its request's weight."""
        return weighted_gauc(values, np.ones(len(values)) if self.request_weight is None else self.request_weight)

    def __call__(self, score: np.ndarray) -> dict[str, Any]:
        """All metrics of a ranking by `score` (N,): ndcg, ild, exposure, each also @K, and those that are @K alone.

        These are coverage@K, catalogue@K (of items over all requests), item_gini@K, novelty@K and serendipity@K.
        """
        ranking = rank_requests(self.request, score)
        metrics: dict[str, Any] = self.ndcgs(score)
        for cutoff in (*self.cutoffs, None):
            if self.paths is not None:
                metrics[_key("ild", cutoff)] = intra_list_diversity(ranking, self.paths, cutoff)
            if self.category is not None and cutoff is not None:
                metrics[_key("coverage", cutoff)] = coverage(ranking, self.category[0], cutoff)
            if self.provider is not None:
                metrics[_key("exposure", cutoff)] = exposure(ranking, *self.provider, cutoff)
            if cutoff is not None and len(self.item):
                metrics[_key("catalogue", cutoff)] = coverage(ranking, self.item, cutoff)
                metrics[_key("item_gini", cutoff)] = item_gini(ranking, self.item, cutoff)
                if self.information is not None:
                    metrics[_key("novelty", cutoff)] = novelty(ranking, self.information, cutoff)
                    metrics[_key("serendipity", cutoff)] = serendipity(ranking, self.click, self.popular, cutoff)
            for name, gain in self.own.items():
                metrics[_key(name, cutoff)] = mean_of_top(ranking, gain, cutoff)
        return metrics


def request_weights(request: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The mean weight of each request's rows, float64 (R,), by ascending request number."""
    segment = np.unique(request, return_inverse=True)[1]
    return np.bincount(segment, weight) / np.bincount(segment)


def own_gain(table: ScoreTable, axis: OwnAxis) -> np.ndarray:
    """What showing each row is worth by a measure of a user's own, float64 (N,).

    Raises:
        UserError: the table keeps no such attribute, or the measure gives something else than a finite number a row.
    """
    values = {name: table.item_values(name)[table.item] for name in axis.attributes}
    gain = np.asarray(axis.gain(values), np.float64)
    if gain.shape != (len(table),) or not np.isfinite(gain).all():
        raise UserError(f"the measure '{axis.name}' gives no finite number for each of {len(table)} rows: correct it")
    return gain


def _row_codes(table: ScoreTable, attribute: str | None) -> tuple[np.ndarray, list[str]] | None:
    """The attribute of every row as codes (N,) with their names."""
    if attribute is None:
        return None
    codes, names = encode(table.item_values(attribute))
    return codes[table.item], names


def _key(name: str, cutoff: int | None) -> str:
    return name if cutoff is None else f"{name}@{cutoff}"
