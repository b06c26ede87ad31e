"""Measures many trade-offs on one score table: ranked for all requests at once, resampled by weights per request.

Every axis is a function of sums over requests, so a bootstrap resample is a row of counts (how often each request is
drawn) and all resamples are one matrix product. The values are those of evaluation/metrics/ranking.py.

Shapes: N rows, R requests, C candidates of the longest request, K places within the cutoff, P trade-offs, A axes,
B resamples, G groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from equipoise.common.lists import SMALLEST, discounts
from equipoise.evaluation.front.axes import Measured
from equipoise.evaluation.front.trade_off import TradeOff, Utilities, positive_field
from equipoise.evaluation.metrics.bootstrap import LEVEL, interval, request_draws
from equipoise.evaluation.metrics.codes import encode
from equipoise.evaluation.metrics.list_metrics import own_gain, request_weights
from equipoise.evaluation.metrics.ranking import (
    RankedLists,
    gains,
    of_ideal,
    rank_requests,
    request_diversity,
    unshown,
)
from equipoise.evaluation.metrics.score_table import ScoreTable
from equipoise.evaluation.metrics.table_lists import path_codes, request_sizes

NDCG_GAINS = ("ndcg", "ndcg_click", "ndcg_conversion")


@dataclass(frozen=True, eq=False)
class Measurement:
    """Trade-offs and what they reach.

    Attributes:
        points: the P trade-offs.
        axes: the A axes.
        values: float64 (P, A).
        samples: the values in every resample of the requests, float64 (P, A, B).
    """

    points: tuple[TradeOff, ...]
    axes: tuple[str, ...]
    values: np.ndarray
    samples: np.ndarray

    def columns(self, axes: Sequence[str]) -> list[int]:
        """Where the axes stand."""
        return [self.axes.index(axis) for axis in axes]

    def of(self, axes: Sequence[str]) -> np.ndarray:
        """The values on some axes, float64 (P, len(axes))."""
        return self.values[:, self.columns(axes)]

    def interval(self, point: int, axis: str, against: int | None = None) -> list[float]:
        """The bootstrap interval of a value, or of its difference to another point (paired); NaN without resamples."""
        column = self.axes.index(axis)
        samples = self.samples[point, column]
        if against is not None:
            samples = samples - self.samples[against, column]
        return interval(samples, LEVEL) if len(samples) else [float("nan")] * 2

    def alike(self, point: int, other: int, axes: Sequence[str]) -> bool:
        """Whether no axis separates two points: the interval of every difference holds 0."""
        intervals = [self.interval(point, axis, other) for axis in axes]
        return all(not (low > 0 or high < 0) for low, high in intervals)


@dataclass(frozen=True, eq=False)
class _Ranked:
    """One ranking of every request.

    Attributes:
        top_RK: rows of the best candidates, int64; unfilled places hold the request's first.
        rows_RW, discount_RW: rows that earn a discounted gain, and its discount, which equal scores share.
        shown_RW: how likely each of these is among the best: between 0 and 1 where a tie lies across the cutoff.
        lists: the same as ranked lists, where there is such a tie.
    """

    top_RK: np.ndarray
    rows_RW: np.ndarray
    discount_RW: np.ndarray
    shown_RW: np.ndarray
    lists: RankedLists | None = None


class TradeOffScorer:
    """Measures trade-offs on one table; what does not depend on the trade-off is prepared once.

    Args:
        table: the scored split, N rows.
        measured: what the axes read.
        resamples: B; 0 leaves intervals out.
        seed: of the resamples, which are the same for all trade-offs.

    Raises:
        UserError: the table keeps no such attribute or field, or a value that is not positive.
    """

    def __init__(self, table: ScoreTable, measured: Measured, resamples: int, seed: int) -> None:
        self.table, self.measured = table, measured
        # Money is no matter of the table: evaluation.front.money adds it.
        self.axes = tuple(a for a in measured.axes(bool(table.clicked_conversion.any())) if a != "money")
        self.sizes_R = request_sizes(table.request)
        starts = np.cumsum(self.sizes_R) - self.sizes_R
        self.requests = len(starts)
        position = np.arange(len(table)) - np.repeat(starts, self.sizes_R)
        self.cell = (np.repeat(np.arange(self.requests), self.sizes_R), position)
        self.starts_R = starts
        width = min(measured.cutoff, int(self.sizes_R.max()))
        self.discount_K = discounts(width)
        self.filled_RK = np.arange(width)[None] < self.sizes_R[:, None]
        draws = list(request_draws(self.requests, resamples, seed))
        # The first row of counts takes every request once: the measured value itself.
        self.counts_BR = np.stack([np.ones(self.requests, np.int64), *draws]).astype(np.float64)
        self._prepare_gains(measured)
        if measured.diversity_attributes:
            self.paths = path_codes(table, measured.diversity_attributes)
        if measured.category_attribute is not None:
            self._prepare_coverage(measured.category_attribute)
        self.own_N = {axis.name: own_gain(table, axis) for axis in measured.own}
        if measured.provider_attribute is not None:
            self._prepare_exposure(measured.provider_attribute)

    def __call__(self, points: Sequence[TradeOff], fields: Sequence[str] = ()) -> Measurement:
        """All axes of the trade-offs.

        Args:
            points: the trade-offs.
            fields: fields of the table that may enter a utility as log value.
        """
        utilities = Utilities(self.table, tuple(fields))
        values = np.stack([self.axes_of(utilities(point), self.axes) for point in points])
        return Measurement(tuple(points), self.axes, values[:, :, 0], values[:, :, 1:])

    def _prepare_gains(self, measured: Measured) -> None:
        """The gain of every row by NDCG axis, what an ideal order reaches with it, and the value of conversions."""
        click, both = self.table.click.astype(np.float64), self.table.clicked_conversion.astype(np.float64)
        if self.table.weight is not None:
            click, both = click * self.table.weight, both * self.table.weight
        graded = gains(self.table.click, self.table.conversion)
        graded = graded if self.table.weight is None else graded * self.table.weight
        gain = dict(zip(NDCG_GAINS, (graded, click, both), strict=True))
        self.gain_N = {axis: values for axis, values in gain.items() if axis in self.axes}
        self.ideal_R = {axis: self._discounted(self._ranked(values), values) for axis, values in self.gain_N.items()}
        if "value" in self.axes:
            assert measured.value_field is not None
            self.earned_N = both * positive_field(self.table, measured.value_field)

    def _prepare_coverage(self, attribute: str) -> None:
        codes, names = encode(self.table.item_values(attribute))
        self.category_N, self.categories = codes[self.table.item], len(names)
        rows = self._by_group(np.ones(len(self.table)), self.cell[0], self.category_N, self.categories)
        self.covered_B = self._present(rows)

    def _prepare_exposure(self, attribute: str) -> None:
        codes, names = encode(self.table.item_values(attribute))
        self.provider_N, self.providers = codes[self.table.item], len(names)
        shares = self._by_group(1 / self.sizes_R[self.cell[0]], self.cell[0], self.provider_N, self.providers)
        self.present_BG = self._resampled(shares) / self.requests
        self.exposed_R = (self.filled_RK * self.discount_K).sum(axis=1)

    def axes_of(self, utility_N: np.ndarray, axes: Sequence[str]) -> np.ndarray:
        """Some axes of one ranking by a utility, float64 (A, 1 + B): the value, then the resamples."""
        ranked = self._ranked(utility_N)
        return np.stack([self._axis(axis, ranked) for axis in axes])

    def _axis(self, axis: str, ranked: "_Ranked") -> np.ndarray:
        if axis in NDCG_GAINS:
            ideal_R = self.ideal_R[axis]
            found_R = self._discounted(ranked, self.gain_N[axis])
            reached_R = np.nan_to_num(of_ideal(found_R, ideal_R))
            weighed_R = 1.0 if self.table.weight is None else request_weights(self.table.request, self.table.weight)
            return self._mean(reached_R, (ideal_R > 0) * weighed_R)
        if axis == "ild":
            return self._diversity(ranked)
        if axis == "exposure_ratio":
            return self._exposure_ratio(ranked)
        if axis == "coverage":
            covered = self._covered(ranked) / self.covered_B
            # A resample shows some requests twice, so fewer values: its spread is kept, its lower level is not.
            covered[1:] = (
                np.clip(covered[1:] + covered[0] - covered[1:].mean(), 0, 1) if len(covered) > 1 else covered[1:]
            )
            return covered
        if axis in self.own_N:
            worth_R = self._shown_sum(ranked, self.own_N[axis]) / self.filled_RK.sum(axis=1)
            return self._mean(worth_R, np.ones(self.requests, bool))
        earned_R = self._shown_sum(ranked, self.earned_N)
        return self._mean(earned_R, np.ones(self.requests, bool))

    def _ranked(self, score_N: np.ndarray) -> "_Ranked":
        """The best candidates of every request; ties keep the order of rows but share their discounts, NaN is last."""
        score_RC = np.full((self.requests, int(self.sizes_R.max())), np.inf)
        score_RC[self.cell] = -score_N
        # A NaN sorts after the padding: it must not lose its place to a row of the next request.
        score_RC[np.isnan(score_RC)] = np.finfo(np.float64).max
        order_RC, width = np.argsort(score_RC, axis=1, kind="stable"), len(self.discount_K)
        sorted_RC = np.take_along_axis(score_RC, order_RC, axis=1)
        filled_RC = np.arange(order_RC.shape[1])[None] < self.sizes_R[:, None]
        rows_RC = np.where(filled_RC, self.starts_R[:, None] + order_RC, self.starts_R[:, None])
        same_RC = (sorted_RC[:, 1:] == sorted_RC[:, :-1]) & filled_RC[:, 1:]
        top_RK = rows_RC[:, :width]
        if not same_RC[:, :width].any():  # the usual case, and many times cheaper
            return _Ranked(top_RK, top_RK, self.filled_RK * self.discount_K, self.filled_RK.astype(np.float64))
        discount_RC = np.zeros(sorted_RC.shape)
        discount_RC[:, :width] = self.filled_RK * self.discount_K
        tie_RC = np.cumsum(np.c_[np.ones(self.requests, bool), ~same_RC]).reshape(sorted_RC.shape) - 1
        in_tie = np.bincount(tie_RC.ravel())
        shared = np.bincount(tie_RC.ravel(), discount_RC.ravel()) / in_tie
        top_RC = np.zeros(sorted_RC.shape)
        top_RC[:, :width] = self.filled_RK
        shown = (np.bincount(tie_RC.ravel(), top_RC.ravel()) / in_tie)[tie_RC]
        cut = bool(((shown > 0) & (shown < 1) & filled_RC).any())
        lists = rank_requests(self.table.request, score_N) if cut else None
        discount_RC = np.where(filled_RC, shared[tie_RC], 0.0)
        return _Ranked(top_RK, rows_RC, discount_RC, np.where(filled_RC, shown, 0.0), lists)

    @staticmethod
    def _shown_sum(ranked: "_Ranked", values_N: np.ndarray) -> np.ndarray:
        """The sum of a value per row over what each request shows, float64 (R,)."""
        return (values_N[ranked.rows_RW] * ranked.shown_RW).sum(axis=1)

    def _covered(self, ranked: "_Ranked") -> np.ndarray:
        """How many categories any drawn request shows, float64 (1 + B,)."""
        if ranked.lists is None:
            rows, requests = ranked.top_RK[self.filled_RK], np.nonzero(self.filled_RK)[0]
            return self._present(self._by_group(np.ones(len(rows)), requests, self.category_N[rows], self.categories))
        request, category, none = unshown(ranked.lists, self.category_N, self.measured.cutoff)
        log_none = np.log(np.maximum(none, np.finfo(float).tiny))
        return -np.expm1(self._resampled(self._by_group(log_none, request, category, self.categories))).sum(axis=1)

    @staticmethod
    def _discounted(ranked: "_Ranked", gain_N: np.ndarray) -> np.ndarray:
        """Discounted gain of every request, float64 (R,)."""
        return (gain_N[ranked.rows_RW] * ranked.discount_RW).sum(axis=1)

    def _mean(self, values_R: np.ndarray, kept_R: np.ndarray) -> np.ndarray:
        """The mean over the kept requests (or by weights, float64 (R,)), float64 (1 + B,); NaN where there are none."""
        total = self.counts_BR @ kept_R
        return np.divide(self.counts_BR @ (values_R * kept_R), total, out=np.full(len(total), np.nan), where=total > 0)

    def _diversity(self, ranked: "_Ranked") -> np.ndarray:
        """ILD; see `equipoise.evaluation.metrics.ranking.intra_list_diversity`."""
        if ranked.lists is not None:
            each_R = request_diversity(ranked.lists, self.paths, self.measured.cutoff)
            return self._mean(np.nan_to_num(each_R), ~np.isnan(each_R))
        top_RK = ranked.top_RK
        shown_R = self.filled_RK.sum(axis=1)
        pairs_R = shown_R * (shown_R - 1) / 2
        alike_R = np.zeros(self.requests)
        blank_RK = -1 - np.arange(top_RK.shape[1])[None]  # unlike everything, and one another
        for level in self.paths.T:
            codes = np.sort(np.where(self.filled_RK, level[top_RK], blank_RK), axis=1)
            for step in range(1, codes.shape[1]):  # equal codes are neighbours: pairs at every distance
                alike_R += (codes[:, step:] == codes[:, :-step]).sum(axis=1)
        similarity_R = np.divide(alike_R, pairs_R * self.paths.shape[1], out=np.zeros(self.requests), where=pairs_R > 0)
        return self._mean(1 - similarity_R, pairs_R > 0)

    def _exposure_ratio(self, ranked: "_Ranked") -> np.ndarray:
        """Smallest ratio of exposure to candidates over the largest; see `metrics.ranking.exposure`."""
        requests, places = np.nonzero(ranked.discount_RW)
        rows = ranked.rows_RW[requests, places]
        share = ranked.discount_RW[requests, places] / self.exposed_R[requests]
        exposed = self._by_group(share, requests, self.provider_N[rows], self.providers)
        large_BG = self.present_BG >= SMALLEST
        exposed_BG = self._resampled(exposed) / self.requests
        ratio_BG = np.divide(exposed_BG, self.present_BG, out=np.full(exposed_BG.shape, np.nan), where=large_BG)
        lowest = np.where(large_BG, ratio_BG, np.inf).min(axis=1)
        highest = np.where(large_BG, ratio_BG, -np.inf).max(axis=1)
        defined = (large_BG.sum(axis=1) > 1) & (highest > 0)
        return np.divide(lowest, highest, out=np.full(len(lowest), np.nan), where=defined)

    def _by_group(self, weight: np.ndarray, request: np.ndarray, group: np.ndarray, groups: int) -> sparse.csr_array:
        """Weights summed by request and group, sparse (R, G)."""
        return sparse.csr_array((weight, (request, group)), shape=(self.requests, groups))

    def _resampled(self, by_group: sparse.csr_array) -> np.ndarray:
        """The sum over requests, float64 (1 + B, G)."""
        return self.counts_BR @ by_group

    def _present(self, by_group: sparse.csr_array) -> np.ndarray:
        """How many groups any drawn request has, float64 (1 + B,)."""
        return (self._resampled(by_group) > 0).sum(axis=1).astype(np.float64)
