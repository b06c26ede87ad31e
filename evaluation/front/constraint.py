"""Constraints on a trade-off: `exposure_ratio>=0.8 and ndcg>=98%`, parsed, never evaluated as code.

    constraints := constraint ("and" constraint)*
    constraint  := axis operator number ["%"]
    axis        := a name of evaluation/front/axes.py, or of an objective, with or without "@k"
    operator    := ">=" | ">" | "<=" | "<"

A percentage is one of pure relevance's own value: `ndcg>=98%` gives up at most two percent of the NDCG.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from equipoise.common.errors import UserError
from equipoise.evaluation.front.axes import read_axis

_AND = re.compile(r"\s+and\s+", re.IGNORECASE)
_CONSTRAINT = re.compile(
    r"\s*(?P<axis>[A-Za-z_]\w*(?:@\d+)?)\s*(?P<operator>>=|<=|>|<)\s*"
    r"(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(?P<percent>%?)\s*",
    re.ASCII,
)


@dataclass(frozen=True)
class Constraint:
    """One bound on one axis.

    Attributes:
        axis: its name.
        operator: `>=`, `>`, `<=` or `<`.
        number: the bound, or 100 times its ratio to pure relevance's value.
        percent: whether it is such a ratio.
    """

    axis: str
    operator: str
    number: float
    percent: bool = False

    def bound(self, relevance: float) -> float:
        """The bound in the axis' own unit; `relevance` is the value of pure relevance."""
        return self.number / 100 * relevance if self.percent else self.number

    def holds(self, values: np.ndarray, relevance: float) -> np.ndarray:
        """Which values (P,) fulfil it, bool (P,); NaN does not."""
        bound = self.bound(relevance)
        compare = {">=": np.greater_equal, ">": np.greater, "<=": np.less_equal, "<": np.less}
        return np.asarray(compare[self.operator](values, bound))

    def missed(self, values: np.ndarray, relevance: float) -> np.ndarray:
        """By how much each value (P,) misses it, 0 where it holds, float64 (P,); infinite for NaN."""
        short = (self.bound(relevance) - values) * (1 if self.operator.startswith(">") else -1)
        short = np.where(self.holds(values, relevance), 0.0, np.maximum(short, np.finfo(np.float64).tiny))
        return np.where(np.isnan(values), np.inf, short)

    def __str__(self) -> str:
        return f"{self.axis} {self.operator} {self.number:g}{'%' if self.percent else ''}"


def parse_constraints(
    text: str, axes: Sequence[str], cutoff: int, objectives: Mapping[str, str] | None = None
) -> tuple[Constraint, ...]:
    """The constraints that a text names, all of which must hold.

    Args:
        text: in the grammar above.
        axes: what is measured.
        cutoff: the k that it is measured at.
        objectives: as `read_axis` takes them.

    Raises:
        UserError: the text is not of this grammar, or names what is not measured.
    """
    constraints = []
    for part in _AND.split(f" {text} ".replace("\n", " ")):
        match = _CONSTRAINT.fullmatch(part)
        number = float(match["number"]) if match else float("inf")
        if match is None or not np.isfinite(number):
            raise UserError(
                f"--where: '{part.strip()}' is no constraint: write for example "
                f"--where '{axes[-1]}>=0.8 and {axes[0]}>=98%'"
            )
        axis = read_axis(match["axis"], axes, cutoff, "--where", objectives)
        constraints.append(Constraint(axis, match["operator"], number, bool(match["percent"])))
    return tuple(constraints)
