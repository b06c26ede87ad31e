"""A trade-off: the weights that turn the scores of a table into one utility, without training again."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from equipoise.common.errors import UserError
from equipoise.evaluation.metrics.score_table import ScoreTable
from equipoise.evaluation.metrics.table_lists import TableLists

BOTH = ("ctr", "cvr")


@dataclass(frozen=True)
class TradeOff:
    """One candidate for the operating point: u = Σ v_j log p_j + Σ γ_f log value_f, and the ω of its lists.

    Attributes:
        omega: ω by list-wise objective; one that is not named has 0.
        relevance: v by pointwise objective; one that is not named has its exponent in the formula.
        value: γ by field of the table; one that is not named has 0.
        formula: exponents of pure relevance, 0 of an objective that it does not name; None: 1 of ctr and cvr.
    """

    omega: Mapping[str, float] = field(default_factory=dict)
    relevance: Mapping[str, float] = field(default_factory=dict)
    value: Mapping[str, float] = field(default_factory=dict)
    formula: Mapping[str, float] | None = None

    def exponent(self, name: str) -> float:
        """v of a pointwise objective in pure relevance."""
        return float(name in BOTH) if self.formula is None else self.formula.get(name, 0.0)

    @property
    def size(self) -> float:
        """How far it is from pure relevance: Σ ω + Σ |v − its exponent there| + Σ γ."""
        away = sum(abs(weight - self.exponent(name)) for name, weight in self.relevance.items())
        return sum(self.omega.values()) + away + sum(self.value.values())

    @property
    def servable(self) -> bool:
        """Whether ω alone describes it, as serving.json does."""
        same = all(weight == self.exponent(name) for name, weight in self.relevance.items())
        return same and not any(self.value.values())

    def words(self) -> str:
        """ "pure relevance", or the weights such as "diversity 1, fairness 0.5, log cvr × 2"."""
        parts = [f"{name} {weight:.4g}" for name, weight in self.omega.items() if weight]
        parts += [
            f"log {name} × {weight:.4g}" for name, weight in self.relevance.items() if weight != self.exponent(name)
        ]
        parts += [f"{name}^{weight:.4g}" for name, weight in self.value.items() if weight]
        return ", ".join(parts) or "pure relevance"

    def to_json(self) -> dict[str, Any]:
        """The weights by kind; kinds that name nothing are left out, but ω."""
        record: dict[str, Any] = {"omega": dict(self.omega)}
        if self.relevance:
            record["relevance_weights"] = dict(self.relevance)
        if self.value:
            record["value_exponents"] = dict(self.value)
        return record


class Utilities:
    """The utility of every row of a table under any trade-off, in float64.

    Args:
        table: N rows.
        fields: names of the table's fields that may enter as log value.

    Raises:
        UserError: a field is not kept, or not positive in every row, so that it has no logarithm.
    """

    def __init__(self, table: ScoreTable, fields: tuple[str, ...] = ()) -> None:
        self.logs = table.logs
        self.lists = TableLists(table, table.delta, table.lists)
        self.log_value = {name: np.log(positive_field(table, name)) for name in fields}

    def __call__(self, point: TradeOff) -> np.ndarray:
        """A score whose order is that of the lists, float64 (N,): u itself where no list-wise objective weighs.

        Raises:
            UserError: the trade-off names an objective or field that the table has no scores of.
        """
        _known(point.omega, self.lists.delta, "list-wise objective")
        _known(point.relevance, self.logs, "pointwise objective")
        _known(point.value, self.log_value, "value column")
        # One term after another, not a matrix product: equal rows must get equal sums, or ties break at random.
        weights = {name: point.relevance.get(name, point.exponent(name)) for name in self.logs}
        kept = [name for name in self.logs if name in BOTH or weights[name]]
        first, *others = (weights[name] * self.logs[name] for name in kept)
        total = sum(others, first)
        for name, weight in point.value.items():
            total = total + weight * self.log_value[name]
        return self.lists(total, point.omega)


def positive_field(table: ScoreTable, name: str) -> np.ndarray:
    """A field of the table as the value of its rows, float64 (N,); raises UserError unless all are positive."""
    if name not in table.fields:
        known = ", ".join(sorted(table.fields)) or "none"
        raise UserError(f"the score table keeps no field '{name}': add it to data.fields, or name one of: {known}")
    values = table.fields[name]
    wrong = int((~(np.isfinite(values) & (values > 0))).sum())
    if wrong:
        raise UserError(
            f"field '{name}' is missing or not positive in {wrong:,} of {len(values):,} rows, so it is no value: "
            "name another one, or fill it in the tables"
        )
    return values


def _known(named: Mapping[str, float], scored: Mapping[str, np.ndarray], kind: str) -> None:
    for name in named:
        if name not in scored:
            raise UserError(f"'{name}' is no {kind} of the score table: name one of: {', '.join(scored) or 'none'}")
