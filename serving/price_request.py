"""Reads a request for prices, and renders its candidates at every allowed price."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from equipoise.data.features import NumberScale
from equipoise.serving.price_grid import LARGEST, allowed_prices
from equipoise.serving.price_limits import KEYS as LIMITS
from equipoise.serving.price_limits import PriceLimits, read_limits
from equipoise.serving.pricing import AskedPrices, Goal, PriceQuestion
from equipoise.serving.request_error import RequestError
from equipoise.serving.requests import CANDIDATE_KEYS, ReadCandidate, ReadRequest, RequestReader
from equipoise.serving.values import known_keys, mapping, number

OWN_KEYS = ("cost", "prices")
"""What a candidate says beside the keys of equipoise.serving.requests."""
ASKED_KEYS = ("prices", "goal", "field", "force", *LIMITS)
"""What a request says beside them."""
MAX_ALLOWED = 65_536
"""Allowed prices of all candidates together, before limits leave some of them."""


def read_question(reader: RequestReader, request: Any, seen: Mapping[str, tuple[float, float]]) -> PriceQuestion:
    """Read a request for prices: that of equipoise.serving.requests without `omega` and `top`, and

        "prices"?: allowed ones for all candidates (equipoise.serving.price_grid), "goal"?: "profit" or "revenue",
        "field"?: what the price is called, "price" by default, "min_margin"?: share, "endings"?: [number],
        "max_change"?: share (equipoise.serving.price_limits), "force"?: advise a change that the data do not show;
        and per candidate "cost"?: number, "prices"?: its own

    Without a goal it is profit where a candidate has a cost, and revenue where none has.

    Args:
        reader: of the export.
        request: JSON or Python objects.
        seen: lowest and highest training value of each numeric feature.

    Raises:
        RequestError: names the field, what is wrong with it and the way out.
    """
    request = mapping("the request", request)
    known_keys("the request", request, ("request_id", "user", "history", "prefix", "recent", "candidates", *ASKED_KEYS))
    name = _field(reader, request.get("field"))
    entries, plain_request = _apart(request)
    # Prices show no list, so that what lists read need not be there.
    read = reader.read({**plain_request, "omega": reader.operating_point.nearest_to_relevance})
    goal, limits, force = _goal(request.get("goal"), entries), read_limits(request), _force(request.get("force"))
    pairs: list[ReadCandidate] = []
    questions: list[AskedPrices] = []
    looked_at = 0
    for position, (entry, candidate) in enumerate(zip(entries, read.candidates, strict=True)):
        field = f"candidates[{position}]"
        current = _current(reader, name, f"{field}.context.{name}", entry, candidate)
        where = f"{field}.prices" if entry.get("prices") is not None else "prices"
        allowed = entry.get("prices") if entry.get("prices") is not None else request.get("prices")
        if allowed is None:
            raise RequestError(where, "is missing: say which prices are allowed, for all candidates or for each")
        prices = allowed_prices(where, allowed, current, reader.limits.prices)
        looked_at += len(prices)
        if looked_at > MAX_ALLOWED:
            raise RequestError(
                "prices", f"allow more than {MAX_ALLOWED:,} prices in all: ask for fewer candidates at once"
            )
        question = _asked(where, candidate.item_id, prices, current, (_cost(field, entry, goal, limits), goal), limits)
        if len(pairs) + len(question.asked) > reader.limits.prices:
            raise RequestError(
                "prices",
                f"ask for more than {reader.limits.prices:,} pairs of candidate and price: allow fewer prices, or ask "
                "for fewer candidates at once",
            )
        pairs += [
            reader.candidate(field, _at(reader, entry, name, price), request.get("user")) for price in question.asked
        ]
        questions.append(question)
    priced_request = ReadRequest(
        read.request_id, read.prefix, pairs, {}, None, recent=read.recent, missing=read.missing
    )
    return PriceQuestion(priced_request, goal, tuple(questions), seen.get(name), name, read, force)


def _asked(
    where: str,
    item_id: str | None,
    allowed: list[float],
    current: float | None,
    cost_and_goal: tuple[float, Goal],
    limits: PriceLimits,
) -> AskedPrices:
    """What is asked for one candidate; errors as those of `read_question`."""
    cost, goal = cost_and_goal
    if limits.max_change is not None and current is None:
        raise RequestError("max_change", "needs the candidate's present price, which is unknown: give it")
    rounded = limits.rounded(allowed)
    prices = limits.with_margin(rounded, cost)
    if not prices and current is None:
        raise RequestError(where, "hold no price with these endings and this margin: allow others, or relax them")
    within = limits.within_change(prices, current)
    bounds = (rounded[0], rounded[-1]) if rounded else None
    return AskedPrices(item_id, prices, current, 0.0 if goal == "revenue" else cost, tuple(within), bounds)


def _force(value: Any) -> bool:
    if value is None or isinstance(value, bool):
        return bool(value)
    raise RequestError("force", f"is '{str(value)[:40]}': give true or false")


def _apart(request: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], dict[str, Any]]:
    """Every candidate with what it says of prices, and the request without all that."""
    plain = {key: value for key, value in request.items() if key not in ASKED_KEYS}
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


def _cost(field: str, entry: Mapping[str, Any], goal: Goal, limits: PriceLimits) -> float:
    if goal == "revenue" and limits.min_margin is None:
        return 0.0
    if entry.get("cost") is None:
        hint = 'ask for "goal": "revenue"' if goal == "profit" else "leave out min_margin"
        raise RequestError(f"{field}.cost", f"is missing: give what the item costs the shop, or {hint}")
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


def _at(reader: RequestReader, entry: Mapping[str, Any], name: str, price: float) -> dict[str, Any]:
    """A candidate at another price, in its text and, where they hold it, in its numbers."""
    plain = {key: value for key, value in entry.items() if key not in OWN_KEYS}
    context, features = plain.get("context"), plain.get("features")
    if not isinstance(context, str):
        plain["context"] = {**(context or {}), name: price}
    if name in reader.features:
        plain["features"] = {**(features or {}), name: price}
    return plain
