"""The trade-offs that are measured: a full grid while it is small, a Sobol sample of the same box where it is not."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import qmc

from equipoise.common.errors import UserError
from equipoise.common.lists import ListRule
from equipoise.evaluation.front.trade_off import TradeOff

OMEGAS = (0.0, 0.0625, 0.125, 0.1875, 0.25, 0.375, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
"""Geometric, two values per octave, and 0; what a list-wise objective gets where nothing is asked for."""
PRICE_OMEGAS = (0.0, *(number / 16 for number in range(1, 13)), 0.875, 1.0, 1.5, 2.0)
"""Of prices of groups: close together, for parity is a peak that a coarser step jumps over."""
MOST_POINTS = 512


def usual_omegas(rule: ListRule | None, name: str) -> list[float]:
    """ω of a list-wise objective where nothing is asked for, by how its run makes lists."""
    price = rule is not None and rule.terms[name].kind == "price"
    return list(PRICE_OMEGAS if price else OMEGAS)


Levels = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Grid:
    """The values of every dimension.

    Attributes:
        omega: list-wise objective → ω ≥ 0.
        relevance: pointwise objective → weight v ≥ 0 of its log probability.
        value: field → exponent γ ≥ 0.
        most: up to so many points the full product is taken, else a sample of this size.
        seed: of the sample.
        formula: pointwise objective → its exponent in pure relevance; one that is not named has 0, all 1 where there is
            no formula.
    """

    omega: Levels
    relevance: Levels = field(default_factory=dict)
    value: Levels = field(default_factory=dict)
    most: int = MOST_POINTS
    seed: int = 0
    formula: Mapping[str, float] | None = None

    @property
    def product(self) -> int:
        """Points of the full product."""
        return math.prod(len(set(levels)) for _, _, levels in self._dimensions())

    @property
    def sampled(self) -> bool:
        """Whether the product is too large to be measured in full."""
        return self.product > self.most

    @property
    def bounds(self) -> dict[str, list[float]]:
        """[0, largest ω] of every list-wise objective: beyond it nothing was measured."""
        return {name: [0.0, float(max(levels))] for name, levels in self.omega.items()}

    def points(self) -> list[TradeOff]:
        """All distinct trade-offs, pure relevance first, then by distance from it."""
        dimensions = self._dimensions()
        levels = [sorted({float(level) for level in given}) for _, _, given in dimensions]
        rows = _sobol(levels, self.most, self.seed) if self.sampled else list(itertools.product(*levels))
        by_row = {row: self._point(row) for row in [self._neutral(), *rows]}
        first, *others = by_row.values()
        return [first, *sorted(others, key=lambda point: point.size)]

    def _neutral(self) -> tuple[float, ...]:
        """Pure relevance."""
        plain = TradeOff(formula=self.formula)
        return tuple(plain.exponent(name) if kind == "relevance" else 0.0 for kind, name, _ in self._dimensions())

    def _point(self, row: Sequence[float]) -> TradeOff:
        weights: dict[str, dict[str, float]] = {kind: {} for kind in _KINDS}
        for (kind, name, _), weight in zip(self._dimensions(), row, strict=True):
            weights[kind][name] = float(weight)
        return TradeOff(**weights, formula=self.formula)

    def to_json(self) -> dict[str, Any]:
        """The values, and how they were combined."""
        how = f"Sobol sample of {self.most} points" if self.sampled else "full product"
        levels = {kind: {name: list(map(float, given)) for name, given in self._kind(kind)} for kind in _KINDS}
        return {**{kind: given for kind, given in levels.items() if given}, "way": how, "seed": self.seed}

    def _kind(self, kind: str) -> list[tuple[str, Sequence[float]]]:
        return list(getattr(self, kind).items())

    def _dimensions(self) -> list[tuple[str, str, Sequence[float]]]:
        return [(kind, name, levels) for kind in _KINDS for name, levels in self._kind(kind)]


_KINDS = ("omega", "relevance", "value")


def parse_levels(text: str | None, option: str) -> dict[str, list[float]]:
    """`diversity=0,0.5,1,fairness=0,1` as name → values, which are finite and at least 0.

    Args:
        text: what the user wrote; None and "" name nothing.
        option: the option's name, for the message.

    Raises:
        UserError: the text cannot be read so.
    """
    levels: dict[str, list[float]] = {}
    name = ""
    for part in filter(None, (piece.strip() for piece in (text or "").split(","))):
        head, equals, number = part.rpartition("=")
        name = head.strip() if equals else name
        if equals and name in levels:
            raise UserError(f"{option}: '{name}' is named twice: give all of its values in one list")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not name or not math.isfinite(value) or value < 0:
            raise UserError(f"{option}: '{part}' cannot be read: write for example {option} NAME=0,0.5,1")
        levels.setdefault(name, []).append(value)
    return levels


def _sobol(levels: Sequence[Sequence[float]], size: int, seed: int) -> list[tuple[float, ...]]:
    """`size` points of a scrambled Sobol sequence (Owen 1998), spread as evenly over the listed values as a grid.

    A coordinate is taken through the piecewise-linear line over the values, so a geometric list stays geometric.
    """
    engine = qmc.Sobol(len(levels), scramble=True, rng=np.random.default_rng(seed))
    unit = engine.random_base2(math.ceil(math.log2(size)))[:size]
    columns = []
    for number, given in enumerate(levels):
        places = unit[:, number] * (len(given) - 1)
        columns.append(np.interp(places, np.arange(len(given)), given).round(4))
    return [tuple(row) for row in np.stack(columns, axis=1).tolist()]
