"""What a shop would use instead of learned adjustments: lists that are re-ranked greedily, and prices of groups.

Each method fills the first places of every request one after another by relevance and what it adds, and needs no
training. Similarity of two candidates is the share of their attribute path that agrees, as in ILD.

Shape suffixes: N rows, R requests, C candidates of the longest request, K places that are filled, G groups.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from equipoise.common.lists import discounts, fill_places, filled, pad
from equipoise.evaluation.metrics.codes import encode
from equipoise.evaluation.metrics.ranking import exposure_shares, rank_requests
from equipoise.evaluation.metrics.score_table import ScoreTable
from equipoise.evaluation.metrics.table_lists import path_codes, request_sizes

MMR, MAX_SUM, DPP = "MMR", "max-sum", "DPP"
DIVERSE = (MMR, MAX_SUM, DPP)
BOOST, PRICES = "boost", "prices"
MAX_SUM_P, BOOST_P = "max-sum of p", "boost of p"
"""The same on the scale of probabilities, exp(r), in units of the mean of the largest of every request."""
STRENGTHS: dict[str, tuple[float, ...]] = {
    MMR: (0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0),
    MAX_SUM: (0.05, 0.1, 0.2, 0.5, 1.0, 2.0),
    DPP: (0.1, 0.2, 0.5, 1.0, 2.0, 5.0),
    BOOST: (0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0),
    PRICES: (0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0),
    MAX_SUM_P: (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    BOOST_P: (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.5),
}
"""Strengths that are measured of each method."""
PRICE_RATE = 0.5
"""By how much of a request's missing share of exposure the price of a group rises."""
SMALL = 1e-6
"""Added to the diagonal of the kernel, so that equal candidates leave a determinant above 0."""


@dataclass(frozen=True)
class Rerank:
    """A way to re-rank: a strength of a method for similar candidates, and of one for groups of providers.

    Attributes:
        diverse: one of DIVERSE, or MAX_SUM_P; None re-ranks for no diversity.
        strength: what its term counts for.
        fair: BOOST or PRICES, BOOST_P; None leaves groups alone. Those of p go together.
        lift: most that a group's candidates gain.
    """

    diverse: str | None = None
    strength: float = 0.0
    fair: str | None = None
    lift: float = 0.0

    def words(self) -> str:
        """Such as "MMR 2, boost 0.5"."""
        parts = [f"{self.diverse} {self.strength:g}"] if self.diverse and self.strength else []
        parts += [f"{self.fair} {self.lift:g}"] if self.fair and self.lift else []
        return ", ".join(parts) or "pure relevance"


def ways(diverse: str | None, fair: str | None) -> list[Rerank]:
    """Pure relevance and all strengths of two methods; of None, none."""
    strengths = (0.0, *STRENGTHS[diverse]) if diverse else (0.0,)
    lifts = (0.0, *STRENGTHS[fair]) if fair else (0.0,)
    return [Rerank(diverse, strength, fair, lift) for strength in strengths for lift in lifts]


def reference_ways(diverse: bool, fair: bool) -> list[Rerank]:
    """The few strengths that stand beside operating points in every evaluation; `front` tunes them.

    Args:
        diverse: whether lists are measured by how alike their items are.
        fair: whether groups share exposure.
    """
    found = [Rerank(MMR, 1.0), Rerank(MMR, 3.0)] if diverse else []
    found += [Rerank(fair=BOOST, lift=0.5), Rerank(fair=BOOST, lift=1.0)] if fair else []
    return found + ([Rerank(MMR, 3.0, BOOST, 1.0)] if diverse and fair else [])


@dataclass(frozen=True)
class GroupState:
    """What is known of groups before the first request: fitted on another split, which served before.

    Attributes:
        lift: how much of a boost each group gets, 1 the weakest and 0 the strongest, by name.
        prices: of each group after the last request, by how high they may rise.
    """

    lift: Mapping[str, float] = field(default_factory=dict)
    prices: Mapping[float, Mapping[str, float]] = field(default_factory=dict)


class Reranker:
    """Re-ranks the lists of one score table.

    Args:
        table: N rows.
        relevance: r of each row, (N,).
        cutoff: places that are filled greedily; the rest follows by relevance.
        path: item attributes, coarse to fine, by which candidates are alike; without any, no method of DIVERSE works.
        provider: item attribute of the groups; None: no group has a boost or a price.
    """

    def __init__(
        self, table: ScoreTable, relevance: np.ndarray, cutoff: int, path: tuple[str, ...], provider: str | None
    ) -> None:
        self.relevance = np.nan_to_num(np.asarray(relevance, np.float64), nan=-1e9, posinf=1e9, neginf=-1e9)
        self.sizes_R = request_sizes(table.request)
        self.probable = np.exp(self.relevance - self.relevance.max(initial=-np.inf))
        first_R = np.cumsum(self.sizes_R) - self.sizes_R
        self.probable /= max(np.maximum.reduceat(self.probable, first_R).mean(), 1e-300) if len(table) else 1.0
        self.filled_RC = filled(self.sizes_R)
        self.cutoff = min(cutoff, self.filled_RC.shape[1])
        self.paths_RCA = pad(path_codes(table, path), self.sizes_R, -1)
        self.request, self.group_N = table.request, np.zeros(len(table), np.int64)
        self.names: list[str] = []
        if provider is not None:
            codes, self.names = encode(table.item_values(provider))
            self.group_N = codes[table.item]

    def state(self, before: GroupState | None = None) -> GroupState:
        """What this split says of its groups: how weak each is under pure relevance, and prices after its requests."""
        if not self.names:
            return GroupState()
        ranking = rank_requests(self.request, self.relevance)
        exposed_G, present_G = exposure_shares(ranking, self.group_N, len(self.names), self.cutoff)
        ratio_G = np.divide(exposed_G, present_G, out=np.ones(len(self.names)), where=present_G > 0)
        lift = dict(zip(self.names, (1 - ratio_G / max(ratio_G.max(), 1e-12)).tolist(), strict=True))
        prices = {
            most: dict(zip(self.names, self._priced(most, before or GroupState())[1].tolist(), strict=True))
            for most in STRENGTHS[PRICES]
        }
        return GroupState(lift, prices)

    def utility(self, way: Rerank, state: GroupState) -> np.ndarray:
        """A score whose order is that of the re-ranked lists, float64 (N,).

        Args:
            way: of one of `ways`.
            state: of the split that came before, such as valid before test.
        """
        score = self.probable if way.diverse == MAX_SUM_P or way.fair == BOOST_P else self.relevance
        if way.fair in (BOOST, BOOST_P) and way.lift:
            score = score + way.lift * np.array([state.lift.get(name, 0.0) for name in self.names])[self.group_N]
        if way.fair == PRICES and way.lift:
            score = self._priced(way.lift, state)[0]
        if not way.diverse or not way.strength:
            return score
        found_RC = pad(score, self.sizes_R, -np.inf)
        order_RK = fill_places(found_RC, self.filled_RC, self.cutoff, _GREEDY[way.diverse](self, way.strength))
        requests, places = np.nonzero(order_RK >= 0)
        top = np.nanmax(np.abs(score)) + 1.0
        found_RC[requests, order_RK[requests, places]] = top + self.cutoff - places
        return found_RC[self.filled_RC]

    def _alike(self, chosen_R: np.ndarray) -> np.ndarray:
        """Similarity of every candidate to one of its request, float64 (R, C), 0 to 1."""
        own_RA = self.paths_RCA[np.arange(len(chosen_R)), chosen_R]
        return (self.paths_RCA == own_RA[:, None]).mean(axis=2)

    def _priced(self, most: float, state: GroupState) -> tuple[np.ndarray, np.ndarray]:
        """Relevance and the price of each row's group at its request, (N,), and the prices after the last one, (G,).

        After each request a group's price rises by PRICE_RATE times the share of exposure that it lacked against its
        share of candidates, and falls by what it had too much, between 0 and `most`: online dual ascent, as P-MMF's.
        """
        start = state.prices.get(most, {})
        price_G = np.array([start.get(name, 0.0) for name in self.names])
        discount_K, score = discounts(self.cutoff), self.relevance.copy()
        begin = 0
        for size in self.sizes_R:
            rows = slice(begin, begin + int(size))
            begin += int(size)
            group, present_G = self.group_N[rows], np.bincount(self.group_N[rows], minlength=len(price_G)) / size
            score[rows] += price_G[group]
            top = np.argsort(-score[rows], kind="stable")[: self.cutoff]
            exposed_G = np.bincount(group[top], discount_K[: len(top)], len(price_G)) / discount_K[: len(top)].sum()
            price_G = np.clip(price_G + PRICE_RATE * (present_G - exposed_G), 0.0, most)
        return score, price_G


_Gain = Callable[[np.ndarray, int], np.ndarray]


def _mmr(lists: Reranker, strength: float) -> _Gain:
    """−λ · mean similarity to what is placed (Carbonell & Goldstein 1998, with the mean in place of the largest)."""
    total_RC = np.zeros(lists.filled_RC.shape)

    def gain(chosen_R: np.ndarray, placed: int) -> np.ndarray:
        total_RC[:] += lists._alike(chosen_R)
        return -strength * total_RC / placed

    return gain


def _max_sum(lists: Reranker, strength: float) -> _Gain:
    """λ · sum of distances to what is placed (max-sum dispersion, Borodin et al. 2012)."""
    total_RC = np.zeros(lists.filled_RC.shape)

    def gain(chosen_R: np.ndarray, placed: int) -> np.ndarray:
        total_RC[:] += 1 - lists._alike(chosen_R)
        return strength * total_RC

    return gain


def _dpp(lists: Reranker, strength: float) -> _Gain:
    """λ · log of the rise of the kernel's determinant (greedy MAP of a DPP, Chen et al. 2018)."""
    size_RC = lists.filled_RC.shape
    factors_RCK, rest_RC = np.zeros((*size_RC, lists.cutoff)), np.full(size_RC, 1.0 + SMALL)
    rows = np.arange(size_RC[0])

    def gain(chosen_R: np.ndarray, placed: int) -> np.ndarray:
        own_RK, root_R = factors_RCK[rows, chosen_R], np.sqrt(np.maximum(rest_RC[rows, chosen_R], SMALL))
        kernel_RC = lists._alike(chosen_R)
        next_RC = (kernel_RC - np.einsum("rck,rk->rc", factors_RCK, own_RK)) / root_R[:, None]
        factors_RCK[:, :, placed - 1] = next_RC
        rest_RC[:] -= next_RC**2
        return strength * np.log(np.maximum(rest_RC, SMALL))

    return gain


_GREEDY: dict[str, Callable[[Reranker, float], _Gain]] = {
    MMR: _mmr,
    MAX_SUM: _max_sum,
    DPP: _dpp,
    MAX_SUM_P: _max_sum,
}
