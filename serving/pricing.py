"""Chooses prices: of those that a caller allows, the one with the largest expected revenue or profit.

    expected(p) = (p − cost) · D(p),   D(p) = pCTR(p) · pCVR(p),   cost 0 for revenue

D is made non-increasing in p by isotonic regression (pool adjacent violators, least squares) before the choice: a price
that seems to sell more because it is higher is noise of the model, and an answer says how much of it there was.

A change is advised only where the data show that demand answers to the price: present prices stay where the 95 %
interval of the elasticity holds 0 (of the candidate, or over all the training data), where demand does not fall at all,
and where the best prices of all candidates lie at the bounds of what is allowed. `force` chooses nonetheless.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy.optimize import isotonic_regression

from equipoise.serving.price_response import Evidence, Interval, Replicates, evidence_of
from equipoise.serving.ranking import Ranking, demand_of
from equipoise.serving.requests import ReadRequest

Goal = Literal["profit", "revenue"]
Withheld = Literal["response", "bounds", "limits"]
FEWEST = 3
"""Allowed prices from which on a choice at their bounds says something."""

RISE = 1e-12
"""Demand that rises by less is flat: rounding of the last digit."""


@dataclass(frozen=True)
class PricePoint:
    """One price: the model's demand there, the same made non-increasing, and what it is expected to earn."""

    price: float
    model_demand: float
    demand: float
    expected: float


@dataclass(frozen=True)
class PricedCandidate:
    """The chosen price of one candidate.

    Attributes:
        item_id, position: as in the request.
        price: that is advised: the best allowed one, of equal ones the lowest; the present one, None where that is
            unknown, where a change is withheld.
        demand: D there, P(click and purchase | impression); None without a price.
        expected: profit or revenue per impression, in the currency of the prices; None without a price.
        best: the best allowed price, whether a change is withheld or not; None where the limits leave no price.
        withheld: why the best price is not advised: the `response` is not shown, all best prices lie at the `bounds`,
            or the `limits` leave no price; None where it is.
        evidence: intervals of the resamples of the run's linear priors; None where it has none.
        current: the same for the current price, None where that is unknown; it need not be an allowed one.
        rises: whether the model's demand rose with the price somewhere.
        largest_change: how far isotonic regression moved D, at most, over all prices of the candidate.
        extrapolated: whether the price lies outside those of the training data.
        curve: all allowed prices, ascending.
    """

    item_id: str | None
    position: int
    price: float | None
    demand: float | None
    expected: float | None
    best: float | None
    withheld: Withheld | None
    evidence: Evidence | None
    current: PricePoint | None
    rises: bool
    largest_change: float
    extrapolated: bool
    curve: tuple[PricePoint, ...]


@dataclass(frozen=True)
class Pricing:
    """The chosen prices of one request, in the order of its candidates.

    Attributes:
        note: one sentence where changes are withheld, else None.
        elasticity: of all demand over the training data; None where nothing was resampled.
        resamples: of which intervals are; None where nothing was resampled.
    """

    request_id: str | None
    goal: Goal
    note: str | None
    elasticity: Interval | None
    resamples: int | None
    candidates: tuple[PricedCandidate, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class AskedPrices:
    """What is asked for one candidate: allowed prices, current price, cost, and which of the prices may be chosen.

    `within`: the allowed prices that are near enough to the present one; None: all. `range`: the lowest and the highest
    allowed price before margins were respected; None: those of `prices`.
    """

    item_id: str | None
    prices: list[float]
    current: float | None
    cost: float
    within: tuple[float, ...] | None = None
    range: tuple[float, float] | None = None

    @property
    def eligible(self) -> tuple[float, ...]:
        """The prices that may be chosen."""
        return tuple(self.prices) if self.within is None else self.within

    @property
    def asked(self) -> list[float]:
        """All prices that are scored, ascending."""
        return sorted({*self.prices, *(() if self.current is None else (self.current,))})


@dataclass(frozen=True)
class PriceQuestion:
    """A request for prices: one prefix, and every candidate at every price as candidates of one slate.

    Attributes:
        request: whose candidates are the pairs, candidate after candidate.
        goal: what is expected.
        seen: lowest and highest price of the training data, None where the price is no numeric feature.
        field: what the price is called.
        present: the request with its candidates at their present prices.
        force: whether a change is advised that the data do not show.
        replicates: of the pairs; None where nothing was resampled.
    """

    request: ReadRequest
    goal: Goal
    questions: tuple[AskedPrices, ...]
    seen: tuple[float, float] | None
    field: str = "price"
    present: ReadRequest | None = None
    force: bool = False
    replicates: Replicates | None = None

    @property
    def owners(self) -> np.ndarray:
        """Which candidate each pair is of, int64 (P,)."""
        return np.repeat(np.arange(len(self.questions)), [len(question.asked) for question in self.questions])

    def of_ranking(self, ranking: Ranking) -> Pricing:
        """The chosen prices, given the scores of every pair."""
        resampled = None
        if self.replicates is not None:
            names = list(self.replicates.moved)
            probabilities = {name: np.array([s.probabilities[name] for s in ranking.given]) for name in names}
            resampled = self.replicates.demand(probabilities)
        return self.answer(demand_of(ranking), resampled)

    def answer(self, demand: Sequence[float], resampled_BP: np.ndarray | None = None) -> Pricing:
        """The chosen prices, given D of every pair, and of every pair by every resample, float64 (B, P)."""
        curves, start = [], 0
        for question in self.questions:
            stop = start + len(question.asked)
            of_it = None if resampled_BP is None else resampled_BP[:, start:stop]
            curves.append(_Curve.of(question, np.asarray(demand[start:stop], dtype=np.float64), of_it))
            start = stop
        elasticity = self.replicates.elasticity if self.replicates is not None else None
        shown = elasticity is None or elasticity.below_zero
        wide = [curve for curve in curves if len(curve.question.prices) >= FEWEST]
        at_bounds = bool(wide) and all(curve.at_bound for curve in wide)
        reasons = [self._withheld(curve, shown, at_bounds) for curve in curves]
        return Pricing(
            self.request.request_id,
            self.goal,
            _note(reasons),
            elasticity,
            None if self.replicates is None else self.replicates.count,
            tuple(
                self._priced(position, curve, reason)
                for position, (curve, reason) in enumerate(zip(curves, reasons, strict=True))
            ),
        )

    def _withheld(self, curve: "_Curve", shown: bool, at_bounds: bool) -> Withheld | None:
        """Why the best price of a candidate is not advised."""
        if curve.best is None:
            return "limits"
        if self.force or curve.best.price == curve.question.current:
            return None
        if not shown or not curve.answers:
            return "response"
        return "bounds" if at_bounds else None

    def _priced(self, position: int, curve: "_Curve", withheld: Withheld | None) -> PricedCandidate:
        current = None if curve.question.current is None else curve.points[curve.question.current]
        advised = curve.best if withheld is None else current
        outside = advised is not None and self.seen is not None and not self.seen[0] <= advised.price <= self.seen[1]
        return PricedCandidate(
            item_id=curve.question.item_id,
            position=position,
            price=None if advised is None else advised.price,
            demand=None if advised is None else advised.demand,
            expected=None if advised is None else advised.expected,
            best=None if curve.best is None else curve.best.price,
            withheld=withheld,
            evidence=curve.evidence,
            current=current,
            rises=curve.rises,
            largest_change=curve.largest_change,
            extrapolated=outside,
            curve=tuple(curve.points[price] for price in curve.question.prices),
        )


@dataclass(frozen=True)
class _Curve:
    """The demand of one candidate at all prices that were asked for.

    Attributes:
        question: of the candidate.
        points: by price.
        best: of the prices that may be chosen; None where there is none.
        rises, largest_change: as of `PricedCandidate`.
        evidence: of the resamples; None without any.
    """

    question: AskedPrices
    points: dict[float, PricePoint]
    best: PricePoint | None
    rises: bool
    largest_change: float
    evidence: Evidence | None

    @classmethod
    def of(cls, question: AskedPrices, model_G: np.ndarray, resampled_BG: np.ndarray | None) -> "_Curve":
        """From the model's demand at each price, and that of every resample."""
        prices = np.array(question.asked)
        fixed = falling(model_G)
        expected = (prices - question.cost) * fixed
        rows = zip(prices.tolist(), model_G.tolist(), fixed.tolist(), expected.tolist(), strict=True)
        points = {price: PricePoint(price, *values) for price, *values in rows}
        best = max(
            (points[p] for p in question.eligible), key=lambda point: (point.expected, -point.price), default=None
        )
        evidence = None
        if resampled_BG is not None:
            compared = (None if best is None else best.price, question.current)
            places = [None if price is None else question.asked.index(price) for price in compared]
            evidence = evidence_of(resampled_BG, prices, question.cost, np.isin(prices, question.eligible), *places)
        rises = bool((np.diff(model_G) > RISE).any())
        return cls(question, points, best, rises, float(np.abs(fixed - model_G).max()), evidence)

    @property
    def answers(self) -> bool:
        """Whether demand is shown to fall with the price; with one price alone there is nothing to show."""
        demand = [point.demand for point in self.points.values()]
        if len(demand) > 1 and max(demand) - min(demand) <= RISE * max(demand):
            return False
        elasticity = self.evidence.elasticity if self.evidence is not None else None
        return elasticity is None or elasticity.below_zero

    @property
    def at_bound(self) -> bool:
        """Whether the best price, however far from the present one, is the lowest or the highest that was allowed.

        A margin below which the shop does not go is its own rule, and no bound of what the data show.
        """
        prices = self.question.prices
        bounds = self.question.range or (prices[0], prices[-1])
        return max(prices, key=lambda p: (self.points[p].expected, -p)) in bounds


def _note(reasons: Sequence[Withheld | None]) -> str | None:
    """One sentence on what is withheld."""
    count = len(reasons)
    if "bounds" in reasons:
        return (
            "the best price of every candidate lies at a bound of the allowed ones, so that the data do not show where "
            "demand turns: present prices stay; allow a wider range, or force a choice"
        )
    if "response" in reasons:
        return (
            f"the data do not show that demand answers to the price for {reasons.count('response')} of {count} "
            "candidates (the interval of its elasticity holds 0): their present prices stay; test more prices, or "
            "force a choice"
        )
    if "limits" in reasons:
        return (
            f"the limits leave no price to {reasons.count('limits')} of {count} candidates: their present prices stay; "
            "allow more prices, a smaller margin or a larger change"
        )
    return None


def falling(demand: np.ndarray) -> np.ndarray:
    """The non-increasing sequence nearest to `demand` in least squares, float64 of its length, within its range."""
    return np.asarray(isotonic_regression(demand, increasing=False).x)
