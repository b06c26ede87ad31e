"""Metrics of ranked lists: relevance (NDCG), diversity (ILD), coverage, and providers' exposure.

Equal scores share their places: every metric is what it is on average over the orders of those that tie (for NDCG see
McSherry & Najork 2008). So it never depends on the order of rows, which may tell something.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from equipoise.common.lists import SMALLEST
from equipoise.evaluation.metrics.pointwise import weighted_gauc


@dataclass(frozen=True, eq=False)
class RankedLists:
    """The rows of a table in order of request, then best first.

    Attributes:
        row: row number in the table, int64 (N,).
        segment: number of the request from 0, int64 (N,).
        rank: place in the request, 0 is best, int64 (N,).
        tie: number of the run of equal scores that the place belongs to, from 0, int64 (N,).
        requests: number of requests R.
    """

    row: np.ndarray
    segment: np.ndarray
    rank: np.ndarray
    tie: np.ndarray
    requests: int

    def top(self, cutoff: int | None) -> np.ndarray:
        """Which places are within the cutoff, bool (N,); None is the whole list."""
        return np.ones(len(self.rank), bool) if cutoff is None else self.rank < cutoff

    def shared(self, values: np.ndarray) -> np.ndarray:
        """The mean of a value per place over the places of equal scores, float64 (N,)."""
        return (np.bincount(self.tie, values) / np.bincount(self.tie))[self.tie]

    def shown(self, cutoff: int | None) -> np.ndarray:
        """How likely each row is within the cutoff, float64 (N,): between 0 and 1 where a tie lies across it."""
        return self.shared(self.top(cutoff).astype(np.float64))

    def discount(self, cutoff: int | None) -> np.ndarray:
        """1/log2(place + 1), 0 below the cutoff, which equal scores share, float64 (N,)."""
        return self.shared(np.where(self.top(cutoff), 1 / np.log2(self.rank + 2), 0.0))


def rank_requests(request: np.ndarray, score: np.ndarray) -> RankedLists:
    """Rank the rows of each request by falling score; ties keep the order of rows, NaN is last.

    Args:
        request: request number, (N,).
        score: utility or any other score, (N,).
    """
    numbers, segment = np.unique(request, return_inverse=True)
    score = np.asarray(score, np.float64)
    row = np.lexsort((-score, segment))
    segment, score = segment[row], np.nan_to_num(score[row], nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    sizes = np.bincount(segment, minlength=len(numbers))
    rank = np.arange(len(row)) - (np.cumsum(sizes) - sizes)[segment]
    tie = np.cumsum((rank == 0) | (score != np.roll(score, 1))) - 1
    return RankedLists(row, segment, rank, tie, len(numbers))


def gains(click: np.ndarray, conversion: np.ndarray) -> np.ndarray:
    """2^rel − 1 with rel 1 for a click and 2 for a click with conversion: 0, 1 or 3, float64 (N,)."""
    return np.where(click == 1, np.where(conversion == 1, 3.0, 1.0), 0.0)


def ndcg(ranking: RankedLists, gain: np.ndarray, cutoff: int | None = None, weight: np.ndarray | None = None) -> float:
    """Mean NDCG@k with the discount 1/log2(place + 1) (Järvelin & Kekäläinen 2002; gains of Burges et al. 2005).

    Equal scores share the discounts of their places. Requests without any gain are left out; NaN where none is left.

    Args:
        ranking: of N rows.
        gain: gain of each row of the table, (N,).
        cutoff: k, or None for the whole list.
        weight: how much each request counts, (R,); None counts all alike.
    """
    each = request_ndcg(ranking, gain, cutoff)
    return weighted_gauc(each, np.ones(len(each)) if weight is None else weight)


def request_ndcg(ranking: RankedLists, gain: np.ndarray, cutoff: int | None = None) -> np.ndarray:
    """NDCG@k of each request, float64 (R,) by ascending request number; NaN without any gain. See `ndcg`."""
    discount = np.where(ranking.top(cutoff), 1 / np.log2(ranking.rank + 2), 0.0)
    best = np.lexsort((-gain[ranking.row], ranking.segment))
    dcg = np.bincount(ranking.segment, gain[ranking.row] * ranking.shared(discount), ranking.requests)
    ideal = np.bincount(ranking.segment, gain[ranking.row][best] * discount, ranking.requests)
    return of_ideal(dcg, ideal)


def of_ideal(found: np.ndarray, ideal: np.ndarray) -> np.ndarray:
    """found / ideal, NaN where nothing can be found; exactly 1 where only the order of a sum is between them."""
    ratio = np.divide(found, ideal, out=np.full(len(ideal), np.nan), where=ideal > 0)
    return np.where(np.abs(ratio - 1) < 1e-12, 1.0, ratio)


def intra_list_diversity(ranking: RankedLists, paths: np.ndarray, cutoff: int | None = None) -> float:
    """ILD@k: 1 − mean similarity over the pairs of the top k (Ziegler et al. 2005), averaged over requests.

    Two items are as similar as the share of their attribute path that agrees, counted from the coarse end. Requests
    with one candidate in the top k have no pair and are left out.

    Args:
        ranking: of N rows.
        paths: codes of `path_codes`, int64 (N, A).
        cutoff: k, or None for the whole list (what a random order gives on average).
    """
    each = request_diversity(ranking, paths, cutoff)
    return float(each[~np.isnan(each)].mean()) if not np.isnan(each).all() else float("nan")


def request_diversity(ranking: RankedLists, paths: np.ndarray, cutoff: int | None = None) -> np.ndarray:
    """ILD@k of each request, float64 (R,); NaN where no pair is shown. See `intra_list_diversity`."""
    size = np.bincount(ranking.segment, ranking.top(cutoff), ranking.requests)
    pairs, levels = size * (size - 1) / 2, paths.shape[1]
    alike = np.zeros(ranking.requests)
    for level in paths.T:
        cells = _shown_cells(ranking, level, cutoff)
        sure, tied, places, run = cells.sure, cells.tied, cells.places[cells.segment], cells.run[cells.segment]
        one = np.divide(places, run, out=np.zeros(len(run)), where=run > 0)
        both = one * np.divide(places - 1, run - 1, out=np.zeros(len(run)), where=run > 1)
        expected = sure * (sure - 1) / 2 + sure * tied * one + tied * (tied - 1) / 2 * both
        alike += np.bincount(cells.segment, expected, ranking.requests)
    kept = (pairs > 0) & (levels > 0)
    return 1 - np.divide(alike, pairs * levels, out=np.full(len(pairs), np.nan), where=kept)


@dataclass(frozen=True, eq=False)
class _ShownCells:
    """How often values stand in the top of requests: a row per request and value that may be shown, M rows.

    Attributes:
        segment, code: the request and the value, int64 (M,).
        sure, tied: rows that are surely shown, and rows of the tie that lies across the cutoff, float64 (M,).
        run, places: of each request the rows of that tie, and how many of them are shown, float64 (R,).
    """

    segment: np.ndarray
    code: np.ndarray
    sure: np.ndarray
    tied: np.ndarray
    run: np.ndarray
    places: np.ndarray


def _shown_cells(ranking: RankedLists, codes: np.ndarray, cutoff: int | None) -> _ShownCells:
    shown = ranking.shown(cutoff)
    kept = shown > 0
    shown, segment, code = shown[kept], ranking.segment[kept], codes[ranking.row[kept]]
    width = int(codes.max(initial=0)) + 1
    cells, cell = np.unique(segment * width + code, return_inverse=True)
    tied = shown < 1
    run = np.bincount(segment, tied, ranking.requests)
    places = np.rint(np.bincount(segment, shown * tied, ranking.requests))
    sure, in_tie = np.bincount(cell, ~tied, len(cells)), np.bincount(cell, tied, len(cells))
    return _ShownCells(cells // width, cells % width, sure, in_tie, run, places)


def unshown(ranking: RankedLists, codes: np.ndarray, cutoff: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How likely a request shows none of a value: request and value, int64 (M,), and that, float64 (M,), where < 1."""
    cells = _shown_cells(ranking, codes, cutoff)
    run, places = cells.run[cells.segment], cells.places[cells.segment]
    others = np.maximum(run - cells.tied, places)  # C(others, places) / C(run, places): all shown ones are others
    drawn = gammaln(others + 1) - gammaln(others - places + 1) - gammaln(run + 1) + gammaln(run - places + 1)
    possible = (cells.sure == 0) & (run - cells.tied >= places)
    return cells.segment, cells.code, np.where(possible, np.exp(drawn), 0.0)


def coverage(ranking: RankedLists, codes: np.ndarray, cutoff: int) -> float:
    """Distinct values in any top k over distinct values among all candidates (Ge et al. 2010); codes int64 (N,)."""
    if not len(codes):
        return float("nan")
    _, code, none = unshown(ranking, codes, cutoff)
    log_none = np.bincount(code, np.log(np.maximum(none, np.finfo(float).tiny)))
    sure = np.bincount(code, none == 0) > 0
    return float(np.where(sure, 1.0, -np.expm1(log_none)).sum() / len(np.unique(codes)))


def exposure_shares(
    ranking: RankedLists, codes: np.ndarray, groups: int, cutoff: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Share of exposure and share of candidates of each group, float64 (G,) each, summing to 1.

    Exposure of a place is 1/log2(place + 1), 0 below the cutoff (Singh & Joachims 2018). Both shares are taken within
    each request and averaged over requests, so that a random order has equal shares whatever the list lengths.
    """
    discount = ranking.discount(cutoff)
    group = codes[ranking.row]
    total = np.bincount(ranking.segment, discount, ranking.requests)
    size = np.bincount(ranking.segment, minlength=ranking.requests)
    exposed = np.bincount(group, discount / total[ranking.segment], groups)
    present = np.bincount(group, 1 / size[ranking.segment], groups)
    return exposed / max(ranking.requests, 1), present / max(ranking.requests, 1)


def exposure(
    ranking: RankedLists, codes: np.ndarray, names: Sequence[str], cutoff: int | None = None
) -> dict[str, object]:
    """Exposure of provider groups against their share of candidates.

    Returns:
        groups: name → exposure share / candidate share (1 is parity), largest group first.
        min_max: smallest ratio / largest, over groups with at least 1 % of the candidates; NaN with fewer than two.
        gap: ½ Σ |exposure share − candidate share|, the exposure that would have to move.
        least: the smallest ratio of those groups, what max-min fairness makes large (Xu et al. 2023).
        gini: ½ Σ_g Σ_h p_g p_h |ratio_g − ratio_h| with candidate shares p, 0 at parity (Gini 1912).
        entropy: −Σ e_g log e_g / log G of the exposure shares, 1 where all G groups are shown alike (Shannon 1948); NaN
            with fewer than two groups.
    """
    exposed, present = exposure_shares(ranking, codes, len(names), cutoff)
    order = [group for group in np.argsort(-present, kind="stable") if present[group] > 0]
    ratios = {names[group]: float(exposed[group] / present[group]) for group in order}
    large = [ratios[names[group]] for group in order if present[group] >= SMALLEST]
    ratio, share = (np.array(values) for values in (list(ratios.values()), present[order] if order else []))
    shown = exposed[exposed > 0]
    return {
        "groups": ratios,
        "min_max": min(large) / max(large) if len(large) > 1 and max(large) > 0 else float("nan"),
        "gap": float(np.abs(exposed - present).sum() / 2) if order else float("nan"),
        "least": min(large) if len(large) > 1 else float("nan"),
        "gini": float(share @ np.abs(ratio[:, None] - ratio) @ share / 2) if len(order) > 1 else float("nan"),
        "entropy": float(-(shown * np.log(shown)).sum() / np.log(len(order))) if len(order) > 1 else float("nan"),
    }


def gini(counts: np.ndarray) -> float:
    """Gini coefficient of how often things were shown, (I,): 0 where all alike, 1 − 1/I where one has all."""
    ordered = np.sort(np.asarray(counts, np.float64))
    if not ordered.sum():
        return float("nan")
    place = np.arange(1, len(ordered) + 1)
    return float((2 * place - len(ordered) - 1) @ ordered / (len(ordered) * ordered.sum()))


def item_gini(ranking: RankedLists, item: np.ndarray, cutoff: int) -> float:
    """Gini of how often each candidate item is in a top k (Fleder & Hosanagar 2009), items never shown included."""
    if not len(item):
        return float("nan")
    codes = np.unique(item, return_inverse=True)[1]
    return gini(np.bincount(codes[ranking.row], ranking.shown(cutoff)))


def novelty(ranking: RankedLists, information: np.ndarray, cutoff: int) -> float:
    """Mean self-information −log2 p of the top k, in bits, averaged over requests (Zhou et al. 2010).

    Args:
        ranking: of N rows.
        information: −log2 of each row's item's share of the training clicks of all candidate items, (N,).
        cutoff: k.
    """
    return mean_of_top(ranking, information, cutoff)


def serendipity(ranking: RankedLists, click: np.ndarray, popular: RankedLists, cutoff: int) -> float:
    """Share of the top k that was clicked and that popularity would not show in its own top k (Ge et al. 2010).

    Args:
        ranking: of N rows.
        click: of each row, (N,).
        popular: the same rows ranked by popularity.
        cutoff: k.
    """
    expected = np.zeros(len(click))
    expected[popular.row] = popular.shown(cutoff)
    return mean_of_top(ranking, (np.asarray(click) == 1) * (1 - expected), cutoff)


def mean_of_top(ranking: RankedLists, values: np.ndarray, cutoff: int | None) -> float:
    """The mean over requests of the mean of a value per row, (N,), over their top k."""
    if not ranking.requests:
        return float("nan")
    shown = ranking.shown(cutoff)
    total = np.bincount(ranking.segment, shown, ranking.requests)
    return float((np.bincount(ranking.segment, values[ranking.row] * shown, ranking.requests) / total).mean())
