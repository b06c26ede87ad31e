"""Chooses prices: of those that a caller allows, the one with the largest expected revenue or profit.

    expected(p) = (p − cost) · D(p),   D(p) = pCTR(p) · pCVR(p),   cost 0 for revenue

D is made non-increasing in p by isotonic regression (pool adjacent violators, least squares) before the choice: a price
that seems to sell more because it is higher is noise of the model, and an answer says how much of it there was.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from sklearn.isotonic import isotonic_regression

from equipoise.data.features import NumberScale
from equipoise.serving.price_grid import LARGEST, allowed_prices
from equipoise.serving.request_error import RequestError
from equipoise.serving.requests import CANDIDATE_KEYS, ReadCandidate, ReadRequest, RequestReader
from equipoise.serving.values import known_keys, mapping, number

Goal = Literal["profit", "revenue"]
OWN_KEYS = ("cost", "prices")
"""What a candidate says beside the keys of equipoise.serving.requests."""

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
        price: the best allowed one; of equal ones the lowest.
        demand: D there, P(click and purchase | impression).
        expected: profit or revenue per impression, in the currency of the prices.
        current: the same for the current price, None where that is unknown; it need not be an allowed one.
        rises: whether the model's demand rose with the price somewhere.
        largest_change: how far isotonic regression moved D, at most, over all prices of the candidate.
        extrapolated: whether the price lies outside those of the training data.
        curve: all allowed prices, ascending.
    """

    item_id: str | None
    position: int
    price: float
    demand: float
    expected: float
    current: PricePoint | None
    rises: bool
    largest_change: float
    extrapolated: bool
    curve: tuple[PricePoint, ...]


@dataclass(frozen=True)
class Pricing:
    """The chosen prices of one request, in the order of its candidates."""

    request_id: str | None
    goal: Goal
    candidates: tuple[PricedCandidate, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class _Question:
    """What is asked for one candidate: allowed prices, current price and cost, and where its pairs begin."""

    item_id: str | None
    prices: list[float]
    current: float | None
    cost: float

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
    """

    request: ReadRequest
    goal: Goal
    questions: tuple[_Question, ...]
    seen: tuple[float, float] | None

    def answer(self, demand: Sequence[float]) -> Pricing:
        """The chosen prices, given D of every pair."""
        priced, start = [], 0
        for position, question in enumerate(self.questions):
            stop = start + len(question.asked)
            priced.append(self._choose(question, position, np.asarray(demand[start:stop], dtype=np.float64)))
            start = stop
        return Pricing(self.request.request_id, self.goal, tuple(priced))

    def _choose(self, question: _Question, position: int, model: np.ndarray) -> PricedCandidate:
        prices = np.array(question.asked)
        fixed = falling(model)
        expected = (prices - question.cost) * fixed
        rows = zip(prices.tolist(), model.tolist(), fixed.tolist(), expected.tolist(), strict=True)
        points = {price: PricePoint(price, *values) for price, *values in rows}
        curve = tuple(points[price] for price in question.prices)
        best = max(curve, key=lambda point: (point.expected, -point.price))
        return PricedCandidate(
            item_id=question.item_id,
            position=position,
            price=best.price,
            demand=best.demand,
            expected=best.expected,
            current=None if question.current is None else points[question.current],
            rises=bool((np.diff(model) > RISE).any()),
            largest_change=float(np.abs(fixed - model).max()),
            extrapolated=self.seen is not None and not self.seen[0] <= best.price <= self.seen[1],
            curve=curve,
        )


def falling(demand: np.ndarray) -> np.ndarray:
    """The non-increasing sequence nearest to `demand` in least squares, float64 of its length, within its range."""
    return np.asarray(isotonic_regression(demand, y_min=demand.min(), y_max=demand.max(), increasing=False))


def read_question(reader: RequestReader, request: Any, seen: Mapping[str, tuple[float, float]]) -> PriceQuestion:
    """Read a request for prices: that of equipoise.serving.requests without `omega` and `top`, and

        "prices"?: allowed ones for all candidates (equipoise.serving.price_grid), "goal"?: "profit" or "revenue",
        "field"?: what the price is called, "price" by default; and per candidate "cost"?: number, "prices"?: its own

    Without a goal it is profit where a candidate has a cost, and revenue where none has.

    Args:
        reader: of the export.
        request: JSON or Python objects.
        seen: lowest and highest training value of each numeric feature.

    Raises:
        RequestError: names the field, what is wrong with it and the way out.
    """
    request = mapping("the request", request)
    keys = ("request_id", "user", "history", "prefix", "recent", "candidates", "prices", "goal", "field")
    known_keys("the request", request, keys)
    name = _field(reader, request.get("field"))
    entries, plain_request = _apart(request)
    read = reader.read(plain_request)
    goal = _goal(request.get("goal"), entries)
    pairs: list[ReadCandidate] = []
    questions: list[_Question] = []
    for position, (entry, candidate) in enumerate(zip(entries, read.candidates, strict=True)):
        field = f"candidates[{position}]"
        current = _current(reader, name, f"{field}.context.{name}", entry, candidate)
        where = f"{field}.prices" if entry.get("prices") is not None else "prices"
        allowed = entry.get("prices") if entry.get("prices") is not None else request.get("prices")
        if allowed is None:
            raise RequestError(where, "is missing: say which prices are allowed, for all candidates or for each")
        prices = allowed_prices(where, allowed, current, reader.limits.prices)
        question = _Question(candidate.item_id, prices, current, _cost(field, entry, goal))
        if len(pairs) + len(question.asked) > reader.limits.prices:
            raise RequestError(
                "prices",
                f"ask for more than {reader.limits.prices:,} pairs of candidate and price: allow fewer prices, or ask "
                "for fewer candidates at once",
            )
        pairs += [reader.candidate(field, _at(entry, name, price), request.get("user")) for price in question.asked]
        questions.append(question)
    priced_request = ReadRequest(read.request_id, read.prefix, pairs, {}, None, recent=read.recent)
    return PriceQuestion(priced_request, goal, tuple(questions), seen.get(name))


def _apart(request: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], dict[str, Any]]:
    """Every candidate with what it says of prices, and the request without all that."""
    plain = {key: value for key, value in request.items() if key not in ("prices", "goal", "field")}
    given = request.get("candidates")
    if not isinstance(given, list | tuple):
        return [], plain  # the reader refuses it
    entries = [entry if isinstance(entry, Mapping) else {"item_id": entry} for entry in given]
    for position, entry in enumerate(entries):
        known_keys(f"candidates[{position}]", mapping(f"candidates[{position}]", entry), (*CANDIDATE_KEYS, *OWN_KEYS))
    plain["candidates"] = [{k: v for k, v in entry.items() if k not in OWN_KEYS} for entry in entries]
    return entries, plain


def _field(reader: RequestReader, name: Any) -> str:
    name = "price" if name is None else name
    numbers = [feature for feature, scale in reader.scales.items() if isinstance(scale, NumberScale)]
    known = [*numbers, *(field for field in reader.context.names if field not in reader.features)]
    if name not in known:
        readable = f"use one of {', '.join(known)}" if known else "train one with data.features: [price]"
        raise RequestError("field", f"is '{str(name)[:40]}', which this export does not read: {readable}")
    if name in reader.item.names:
        raise RequestError(
            "field",
            f"is '{name}', which the items' own texts tell: train an export that tells it in data.prompt.context",
        )
    return name


def _goal(value: Any, entries: Sequence[Mapping[str, Any]]) -> Goal:
    if value is None:
        return "profit" if any(entry.get("cost") is not None for entry in entries) else "revenue"
    if value == "profit":
        return "profit"
    if value == "revenue":
        return "revenue"
    raise RequestError("goal", f"is '{str(value)[:40]}': give profit or revenue")


def _cost(field: str, entry: Mapping[str, Any], goal: Goal) -> float:
    if goal == "revenue":
        return 0.0
    if entry.get("cost") is None:
        raise RequestError(
            f"{field}.cost", 'is missing: give what the item costs the shop, or ask for "goal": "revenue"'
        )
    cost = number(f"{field}.cost", entry["cost"])
    if not 0 <= cost <= LARGEST:
        raise RequestError(f"{field}.cost", f"is {cost:g}: give 0 or more, and at most {LARGEST:g}")
    return cost


def _current(
    reader: RequestReader, name: str, field: str, entry: Mapping[str, Any], candidate: ReadCandidate
) -> float | None:
    """The candidate's present price: as the numeric feature is read, or from the fields of its context."""
    context = entry.get("context")
    if isinstance(context, str) and name in reader.context.names:
        raise RequestError(
            field.rpartition(".")[0], f"is a ready text, which tells the price '{name}' too: give its fields instead"
        )
    if name in reader.features:
        known = candidate.features[reader.features.index(name)]
        return None if np.isnan(known) else known
    value = (context or {}).get(name)
    if value is None:
        return None
    price = number(field, value)
    if not 0 < price <= LARGEST:
        raise RequestError(field, f"is {price:g}: give a price above 0, or null where it is unknown")
    return price


def _at(entry: Mapping[str, Any], name: str, price: float) -> dict[str, Any]:
    """A candidate at another price, in its text and in its numbers."""
    plain = {key: value for key, value in entry.items() if key not in OWN_KEYS}
    context, features = plain.get("context"), plain.get("features")
    if not isinstance(context, str):
        plain["context"] = {**(context or {}), name: price}
    return {**plain, "features": {**(features or {}), name: price}}
