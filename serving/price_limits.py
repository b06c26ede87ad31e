"""What a shop's own rules leave of the allowed prices: price endings, a least margin, and a largest change."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from equipoise.serving.price_grid import CENTS, LARGEST
from equipoise.serving.request_error import RequestError
from equipoise.serving.values import number, sequence

KEYS = ("min_margin", "endings", "max_change")
MOST_ENDINGS = 100


@dataclass(frozen=True)
class PriceLimits:
    """Rules of one request.

    Attributes:
        min_margin: least (price − cost) / price, 0 to below 1; None: none.
        endings: prices end in one of these, such as 0.49 and 0.99, or 9; empty: in any.
        max_change: largest |price − present| / present, above 0; None: any.
    """

    min_margin: float | None = None
    endings: tuple[float, ...] = ()
    max_change: float | None = None

    def rounded(self, prices: Sequence[float]) -> list[float]:
        """Each price as the nearest one with such an ending that lies between the least and the largest of them.

        Ascending, each once; none where no such price lies between them.
        """
        if not self.endings or not prices:
            return sorted(set(prices))
        unit, low, high = self._unit, min(prices), max(prices)
        found = set()
        for price in prices:
            base = math.floor(price / unit) * unit
            near = [round(base + shift + ending, CENTS) for shift in (-unit, 0.0, unit) for ending in self.endings]
            inside = [other for other in near if low <= other <= high and other > 0]
            if inside:
                found.add(min(inside, key=lambda other: (abs(other - price), other)))
        return sorted(found)

    def with_margin(self, prices: Sequence[float], cost: float) -> list[float]:
        """The prices that keep the margin."""
        if self.min_margin is None:
            return list(prices)
        return [price for price in prices if price - cost >= self.min_margin * price - 1e-9 * price]

    def within_change(self, prices: Sequence[float], current: float | None) -> list[float]:
        """The prices that are near enough to the present one; all where no change is too large."""
        if self.max_change is None or current is None:
            return list(prices)
        return [price for price in prices if abs(price - current) <= self.max_change * current * (1 + 1e-9)]

    @property
    def _unit(self) -> float:
        """The power of ten in which endings repeat: 1 for 0.99, 10 for 9 and 9.99."""
        return 10.0 ** max(math.floor(math.log10(max(self.endings)) + 1e-12) + 1, 0) if max(self.endings) > 0 else 1.0


def read_limits(request: Mapping[str, Any]) -> PriceLimits:
    """The limits of a request.

    Raises:
        RequestError: names the field, what is wrong with it and the way out.
    """
    margin, change = (None if request.get(key) is None else number(key, request[key]) for key in (KEYS[0], KEYS[2]))
    if margin is not None and not 0 <= margin < 1:
        raise RequestError(KEYS[0], f"is {margin:g}: give a share of the price from 0 to below 1")
    if change is not None and not 0 < change <= LARGEST:
        raise RequestError(KEYS[2], f"is {change:g}: give a share of the present price above 0, such as 0.1")
    given = request.get("endings")
    endings = [] if given is None else sequence("endings", given)
    if len(endings) > MOST_ENDINGS:
        raise RequestError("endings", f"has {len(endings):,} entries: give at most {MOST_ENDINGS}")
    values = tuple(number(f"endings[{index}]", value) for index, value in enumerate(endings))
    for index, value in enumerate(values):
        if not 0 <= value < 1000:
            raise RequestError(f"endings[{index}]", f"is {value:g}: give what prices end in, from 0 to below 1000")
    return PriceLimits(margin, tuple(sorted(set(values))), change)
