"""The prices that a caller allows for a candidate: a list, bounds with a step, or factors of its current price.

[3.49, 3.99]    {"least": 3, "most": 5, "step": 0.25}    {"factors": [0.9, 1, 1.1]}
"""

import math
from collections.abc import Mapping
from typing import Any

from equipoise.serving.request_error import RequestError
from equipoise.serving.values import kind_of, known_keys, number, sequence

LARGEST = 1e9
CENTS = 2
"""Digits after the point of a factor's price."""

_BOUNDS = ("least", "most", "step")


def allowed_prices(field: str, value: Any, current: float | None, most: int) -> list[float]:
    """The allowed prices, ascending, each once.

    Args:
        field: where `value` stands in the request.
        value: in one of the three forms.
        current: the candidate's current price, None where unknown.
        most: how many there may be.

    Raises:
        RequestError: names the field, what is wrong with it and the way out.
    """
    if isinstance(value, Mapping):
        known_keys(field, value, (*_BOUNDS, "factors"))
        if "factors" in value:
            others = [key for key in _BOUNDS if value.get(key) is not None]
            if others:
                raise RequestError(field, f"has both factors and {others[0]}: give factors, or least, most and step")
            return _of_factors(f"{field}.factors", value["factors"], current, most)
        return _of_bounds(field, value, most)
    if not isinstance(value, list | tuple):
        hint = "give a list of prices, or an object with least, most and step, or with factors"
        raise RequestError(field, f"is {kind_of(value)}: {hint}")
    return _listed(field, value, most)


def _price(field: str, value: Any) -> float:
    price = number(field, value)
    if not 0 < price <= LARGEST:
        raise RequestError(field, f"is {price:g}: give a price above 0 and of at most {LARGEST:g}")
    return price


def _listed(field: str, value: Any, most: int) -> list[float]:
    given = sequence(field, value)
    if not given:
        raise RequestError(field, "is empty: allow at least one price")
    if len(given) > most:
        raise RequestError(field, f"has {len(given):,} prices: give at most {most:,}")
    return sorted({_price(f"{field}[{number}]", entry) for number, entry in enumerate(given)})


def _of_bounds(field: str, value: Mapping[str, Any], most: int) -> list[float]:
    missing = [key for key in _BOUNDS if value.get(key) is None]
    if missing:
        raise RequestError(field, f"has no {missing[0]}: give least, most and step, or a list of prices")
    least, highest, step = (_price(f"{field}.{key}", value[key]) for key in _BOUNDS)
    if least > highest:
        raise RequestError(field, f"has least {least:g} above most {highest:g}: swap them")
    # A float's own error must neither lose the last price nor let it pass the bound.
    steps = (highest - least) / step * (1 + 1e-12) + 1e-9
    if not steps < most:  # also where it is infinite
        raise RequestError(field, f"allows {steps:,.0f} prices: give at most {most:,}, with a larger step")
    count = math.floor(steps) + 1
    return sorted({min(round(least + number * step, 10), highest) for number in range(count)})


def _of_factors(field: str, value: Any, current: float | None, most: int) -> list[float]:
    factors = _listed(field, value, most)
    if current is None:
        raise RequestError(field, "need the candidate's current price, which is unknown: give it, or list the prices")
    prices = sorted({round(factor * current, CENTS) for factor in factors})
    for price in prices:
        if not 0 < price <= LARGEST:
            raise RequestError(field, f"lead to the price {price:g}: keep prices above 0 and at most {LARGEST:g}")
    return prices
