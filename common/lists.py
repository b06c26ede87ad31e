"""How lists are made of scores: place after place, in the units of the metrics that they are judged by.

At place t, whose discount is d_t = 1 / log2(t + 1), candidate i counts

    d_t · (w_i + Σ_k ω_k · p_ki / D)  +  Σ_k ω_k · exp(δ_ki) · 2 / (K (K − 1)) · Σ_{j placed} (1 − s_ij)

- w_i = exp(u_i) / Σ_t d_t · exp(u_(t)), with the K best of its request below: over a list Σ d_t w_i is at most 1, and
  is NDCG@K where exp(u) is the gain of the candidate. So a step down in relevance costs what it costs in that metric.
- p_ki: the price of the candidate's group by the `price` objective k, and its adjustment δ_ki; D = Σ_t d_t over the K
  places. Over a list the term is ω_k times the mean price of what is exposed.
- s_ij: the share of the attribute path of a `spread` objective on which two candidates agree, counted from the coarse
  end. Over a list of K the term is ω_k · ILD@K where δ is 0; exp(δ_ki) says how much this shopper wants of it.

Greedy filling of the places is that of max-sum dispersion (Borodin et al. 2012), and of MMR (Carbonell & Goldstein
1998), with relevance on the scale of the metric. With ω = 0 a list is sorted by relevance.

Shape suffixes: R requests, C candidates of the longest one, K places, P places that are filled, A levels of a path.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

MOST_FILLED = 200
"""Places that are filled one after another at most; beyond them candidates follow by relevance and prices."""
FARTHEST = 3.0
"""δ of a spread objective counts between −3 and 3: a shopper wants at most 20 times more of it than another."""
SMALLEST = 0.01
"""Share of all below which a group is not the strongest: a handful of lucky items is no measure for the others."""
UNKNOWN = "unknown"
"""The value of an attribute that an item has not."""


@dataclass(frozen=True)
class ListTerm:
    """What a list-wise objective does to a list.

    Attributes:
        kind: `spread` (unlike items beside each other), `price` (groups of items) or `adjust` (δ added to u).
        attributes: of items: a path, coarse to fine; of `price` one; of `adjust` none.
        prices: of the groups where δ is 0, by value of the attribute; 0 of one that is not named.
    """

    kind: Literal["spread", "price", "adjust"]
    attributes: tuple[str, ...] = ()
    prices: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ListRule:
    """How a run makes lists.

    Attributes:
        places: K, which the metrics read.
        terms: by list-wise objective.
    """

    places: int
    terms: Mapping[str, ListTerm]

    @classmethod
    def of(cls, record: Mapping[str, Any] | None) -> "ListRule | None":
        """From `to_json`; None of a run whose adjustments are simply added to the relevance."""
        if not record:
            return None
        terms = {
            name: ListTerm(about["kind"], tuple(about["attributes"]), dict(about["prices"]))
            for name, about in record["terms"].items()
        }
        return cls(int(record["places"]), terms)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        terms = {
            name: {**asdict(term), "attributes": list(term.attributes), "prices": dict(term.prices)}
            for name, term in self.terms.items()
        }
        return {"places": self.places, "terms": terms}

    def attributes(self, omega: Mapping[str, float] | None = None) -> list[str]:
        """Item attributes that are read, of objectives whose ω is not 0, or of all."""
        read = [term.attributes for name, term in self.terms.items() if omega is None or omega.get(name)]
        return list(dict.fromkeys(name for names in read for name in names))

    def adjusts(self, omega: Mapping[str, float]) -> dict[str, float]:
        """ω of the objectives whose δ is added to u."""
        return {name: weight for name, weight in omega.items() if name in self.terms and self._adjusts(name)}

    def active(self, omega: Mapping[str, float]) -> bool:
        """Whether a list is more than candidates sorted by u."""
        return any(weight and name in self.terms and not self._adjusts(name) for name, weight in omega.items())

    def _adjusts(self, name: str) -> bool:
        return self.terms[name].kind == "adjust"


def attribute_text(value: Any) -> str:
    """The text of an item's attribute, by which its group is known: 3 and 3.0 are one; UNKNOWN where it is missing."""
    if value is None or value != value:
        return UNKNOWN
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def discounts(places: int) -> np.ndarray:
    """1 / log2(t + 1) of the places t = 1, 2, …, float64 (places,)."""
    return 1 / np.log2(np.arange(places) + 2)


def group_prices(exposed_G: np.ndarray, due_G: np.ndarray) -> np.ndarray:
    """How weak groups are, float64 (G,): 1 of one that is not exposed, 0 of the strongest and of one with nothing due.

    Args:
        exposed_G: share of the exposure under pure relevance.
        due_G: share that is due. The strongest is one of at least SMALLEST of all, where there is such a group.
    """
    ratio_G = np.divide(exposed_G, due_G, out=np.zeros(len(due_G)), where=due_G > 0)
    large_G = due_G >= SMALLEST
    most = max(ratio_G[large_G].max() if large_G.any() else ratio_G.max(initial=0.0), 1e-12)
    return np.clip(1 - ratio_G / most, 0.0, 1.0) * (due_G > 0)


def worth(utility_RC: np.ndarray, filled_RC: np.ndarray, places: int) -> np.ndarray:
    """w of every candidate, float64 (R, C), 0 where there is none."""
    safe_RC = np.where(filled_RC, np.nan_to_num(utility_RC, nan=-1e9, posinf=1e9, neginf=-1e9), -np.inf)
    gain_RC = np.exp(safe_RC - safe_RC.max(axis=1, keepdims=True))
    kept = min(places, gain_RC.shape[1])
    best_RK = -np.sort(-gain_RC, axis=1)[:, :kept]
    return gain_RC / (best_RK @ discounts(kept))[:, None]


def path_numbers(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Numbers of an attribute path, int64 (…, A): equal at level a where two candidates agree up to it.

    Args:
        columns: A arrays of integer codes of one shape, coarse to fine.
    """
    levels, path = [], np.zeros(np.shape(columns[0]), np.int64)
    for column in columns:
        path = np.unique(path * (int(column.max(initial=0)) + 1) + column, return_inverse=True)[1].reshape(path.shape)
        levels.append(path)
    return np.stack(levels, axis=-1)


def fill_places(
    score_RC: np.ndarray,
    filled_RC: np.ndarray,
    count: int,
    gain: Callable[[np.ndarray, int], np.ndarray | float],
    discount_P: np.ndarray | None = None,
) -> np.ndarray:
    """The candidates of the first places, chosen one after another, int64 (R, P), −1 where a request has no more.

    Args:
        score_RC: what each counts by itself.
        filled_RC: bool, where there is a candidate.
        count: P.
        gain: is told whom a place got, (R,), and how many are placed; gives what every candidate adds then, (R, C).
        discount_P: of what candidates count by themselves at each place; None: 1.
    """
    rows, open_RC = np.arange(len(score_RC)), filled_RC.copy()
    score_RC = np.where(filled_RC, score_RC, 0.0)
    order_RP = np.full((len(score_RC), count), -1)
    added_RC: np.ndarray | float = 0.0
    for place in range(count):
        counted_RC = score_RC if discount_P is None else discount_P[place] * score_RC
        chosen_R = np.where(open_RC, counted_RC + added_RC, -np.inf).argmax(axis=1)
        some_R = open_RC[rows, chosen_R]
        order_RP[some_R, place] = chosen_R[some_R]
        open_RC[rows, chosen_R] = False
        if place + 1 < count:
            added_RC = gain(chosen_R, place + 1)
    return order_RP


@dataclass(frozen=True, eq=False)
class Filled:
    """Lists of R requests.

    Attributes:
        order_RP: the candidate at each place, −1 where there is none.
        terms: what candidates counted where they were placed, by `relevance` and the objectives, float64 (R, P).
        cost_RP: of each place what relevance it gives up against the most relevant candidate that was left.
        rest_RC: by which candidates that are not placed follow, higher first.
    """

    order_RP: np.ndarray
    terms: dict[str, np.ndarray]
    cost_RP: np.ndarray
    rest_RC: np.ndarray

    def order(self, row: int) -> list[int]:
        """All candidates of one request, best first."""
        placed = [int(candidate) for candidate in self.order_RP[row] if candidate >= 0]
        shown = set(placed)
        left = np.argsort(-self.rest_RC[row], kind="stable").tolist()
        return [*placed, *(candidate for candidate in left if candidate not in shown)]


class ListMaker:
    """Makes the lists of some requests under any ω.

    Args:
        rule: of the run.
        filled_RC: bool, where there is a candidate.
        delta: adjustments by list-wise objective, float64 (R, C).
        prices: of `price` objectives those of the candidates' groups, float64 (R, C).
        paths: of `spread` objectives `path_numbers`, int64 (R, C, A).
    """

    def __init__(
        self,
        rule: ListRule,
        filled_RC: np.ndarray,
        delta: Mapping[str, np.ndarray],
        prices: Mapping[str, np.ndarray],
        paths: Mapping[str, np.ndarray],
    ) -> None:
        self.rule, self.filled_RC, self.paths = rule, filled_RC, paths
        kinds = {name: term.kind for name, term in rule.terms.items()}
        self.price_RC = {name: prices[name] + delta[name] for name, kind in kinds.items() if kind == "price"}
        self.wish_RC = {
            name: np.exp(np.clip(delta[name], -FARTHEST, FARTHEST)) for name, kind in kinds.items() if kind == "spread"
        }

    def __call__(self, utility_RC: np.ndarray, omega: Mapping[str, float], count: int | None = None) -> Filled:
        """Fill the first places.

        Args:
            utility_RC: u of every candidate, on the scale of log gains.
            omega: by list-wise objective; those of `adjust` are in u already.
            count: places that are filled; None fills K.
        """
        places, (requests, width) = self.rule.places, self.filled_RC.shape
        count = min(places if count is None else min(count, max(MOST_FILLED, places)), width)
        scale = 1 / discounts(places).sum()
        worth_RC = worth(utility_RC, self.filled_RC, places)
        paid = {name: scale * weight * self.price_RC[name] for name, weight in omega.items() if name in self.price_RC}
        score_RC = sum(paid.values(), worth_RC)
        strength = 2 / (places * max(places - 1, 1))
        wished = {
            name: strength * weight * self.wish_RC[name] for name, weight in omega.items() if name in self.wish_RC
        }
        wished = {name: values for name, values in wished.items() if values.any()}
        apart = {name: np.zeros((requests, width)) for name in wished}
        seen = {name: np.zeros((requests, count)) for name in wished}
        rows = np.arange(requests)

        def gain(chosen_R: np.ndarray, placed: int) -> np.ndarray | float:
            total_RC: np.ndarray | float = 0.0
            for name, wish_RC in wished.items():
                seen[name][:, placed - 1] = (wish_RC * apart[name])[rows, chosen_R]
                own_RA = self.paths[name][rows, chosen_R]
                apart[name] += 1 - (self.paths[name] == own_RA[:, None]).mean(axis=2)
                total_RC = total_RC + wish_RC * apart[name]
            return total_RC

        discount_P = discounts(count)
        order_RP = fill_places(score_RC, self.filled_RC, count, gain, discount_P)
        for name, wish_RC in wished.items() if count else ():  # the last place, which nothing follows
            seen[name][:, -1] = (wish_RC * apart[name])[rows, order_RP[:, -1]]
        there_RP = order_RP >= 0

        def at_places(values_RC: np.ndarray) -> np.ndarray:
            return np.where(there_RP, discount_P * np.take_along_axis(values_RC, order_RP.clip(min=0), axis=1), 0.0)

        best_RP, open_RC = np.zeros(order_RP.shape), np.where(self.filled_RC, worth_RC, 0.0)
        for place in range(count):
            best_RP[:, place] = open_RC.max(axis=1)
            open_RC[rows, order_RP[:, place]] = 0.0
        terms = {"relevance": at_places(worth_RC)} | {name: at_places(values) for name, values in paid.items()}
        terms |= {name: np.where(there_RP, values, 0.0) for name, values in seen.items()}
        cost_RP = np.where(there_RP, discount_P * best_RP - terms["relevance"], 0.0)
        return Filled(order_RP, terms, cost_RP, score_RC)

    def scores(self, utility_RC: np.ndarray, omega: Mapping[str, float]) -> np.ndarray:
        """A score whose order is that of the lists, float64 (R, C), equal where candidates are alike in all."""
        if not self.rule.active(omega):
            return utility_RC
        spread = any(weight and name in self.wish_RC for name, weight in omega.items())
        filled = self(utility_RC, omega, None if spread else 0)
        if not spread:
            return filled.rest_RC
        found_RC = filled.rest_RC / max(np.abs(filled.rest_RC).max(), 1.0)  # within ±1, below all that are placed
        requests, places = np.nonzero(filled.order_RP >= 0)
        found_RC[requests, filled.order_RP[requests, places]] = 1.0 + filled.order_RP.shape[1] - places
        return found_RC


def list_order(
    rule: ListRule,
    utility: np.ndarray,
    delta: Mapping[str, Sequence[float] | np.ndarray],
    values: Mapping[str, Sequence[str]],
    omega: Mapping[str, float],
) -> list[int]:
    """All candidates of one request, best first; equal ones keep their order where lists are sorted by u.

    Args:
        rule: of the run.
        utility: u of each candidate, float64 (C,).
        delta: adjustments by list-wise objective, (C,).
        values: what each candidate has of the attributes that objectives with a weight read, (C,).
        omega: by list-wise objective.
    """
    if not rule.active(omega):
        return np.argsort(-utility, kind="stable").tolist()
    weighed = {name: term for name, term in rule.terms.items() if omega.get(name)}
    maker = one_request(ListRule(rule.places, weighed), {name: delta[name] for name in weighed}, values)
    return maker(utility[None], omega).order(0)


def one_request(
    rule: ListRule, delta: Mapping[str, Sequence[float] | np.ndarray], values: Mapping[str, Sequence[str]]
) -> ListMaker:
    """A maker of the list of one request.

    Args:
        rule: of the run.
        delta: adjustments by list-wise objective, (C,).
        values: by item attribute what each candidate has, (C,).
    """
    count = len(next(iter(delta.values())))
    prices, paths = {}, {}
    for name, term in rule.terms.items():
        if term.kind == "price":
            prices[name] = np.array([[term.prices.get(value, 0.0) for value in values[term.attributes[0]]]])
        elif term.kind == "spread":
            columns = [values[key] for key in term.attributes]
            numbers: dict[tuple[str, ...], int] = {}
            levels = [
                [numbers.setdefault(path, len(numbers)) for path in zip(*columns[: level + 1], strict=True)]
                for level in range(len(columns))
            ]
            paths[name] = np.array(levels).T[None]
    own = {name: np.asarray(each, np.float64)[None] for name, each in delta.items()}
    return ListMaker(rule, np.ones((1, count), bool), own, prices, paths)


def pad(values: np.ndarray, sizes: Sequence[int] | np.ndarray, blank: Any = 0) -> np.ndarray:
    """Rows of R requests, one after another, as (R, C, …), `blank` where a request has fewer."""
    sizes = np.asarray(sizes)
    filled_RC = filled(sizes)
    padded = np.full((*filled_RC.shape, *np.shape(values)[1:]), blank, np.asarray(values).dtype)
    padded[filled_RC] = values
    return padded


def filled(sizes: Sequence[int] | np.ndarray) -> np.ndarray:
    """Where requests of these sizes have candidates, bool (R, C)."""
    sizes = np.asarray(sizes)
    return np.arange(int(sizes.max(initial=0)))[None] < sizes[:, None]
