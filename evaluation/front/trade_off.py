"""A trade-off: the weights that turn the scores of a table into one utility, without training again."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from equipoise.common.errors import UserError
from equipoise.evaluation.metrics.score_table import ScoreTable


@dataclass(frozen=True)
class TradeOff:
    """One candidate for the operating point: u = Σ v_j log p_j + Σ ω_k δ_k + Σ γ_f log value_f.

    Attributes:
        omega: ω by list-wise objective; one that is not named has 0.
        relevance: v by pointwise objective; one that is not named has 1.
        value: γ by field of the table; one that is not named has 0.
    """

    omega: Mapping[str, float] = field(default_factory=dict)
    relevance: Mapping[str, float] = field(default_factory=dict)
    value: Mapping[str, float] = field(default_factory=dict)

    @property
    def size(self) -> float:
        """How far it is from pure relevance: Σ ω + Σ |v − 1| + Σ γ."""
        away = sum(abs(weight - 1) for weight in self.relevance.values())
        return sum(self.omega.values()) + away + sum(self.value.values())

    @property
    def servable(self) -> bool:
        """Whether ω alone describes it, as serving.json does."""
        return all(weight == 1 for weight in self.relevance.values()) and not any(self.value.values())

    def words(self) -> str:
        """ "pure relevance", or the weights such as "diversity 1, fairness 0.5, log cvr × 2"."""
        parts = [f"{name} {weight:.4g}" for name, weight in self.omega.items() if weight]
        parts += [f"log {name} × {weight:.4g}" for name, weight in self.relevance.items() if weight != 1]
        parts += [f"{name}^{weight:.4g}" for name, weight in self.value.items() if weight]
        return ", ".join(parts) or "pure relevance"

    def to_json(self) -> dict[str, Any]:
        """The weights by kind; kinds that name nothing are left out, but ω."""
        found: dict[str, Any] = {"omega": dict(self.omega)}
        if self.relevance:
            found["relevance_weights"] = dict(self.relevance)
        if self.value:
            found["value_exponents"] = dict(self.value)
        return found


class Utilities:
    """The utility of every row of a table under any trade-off, in float64.

    Args:
        table: N rows.
        fields: names of the table's fields that may enter as log value.

    Raises:
        UserError: a field is not kept, or not positive in every row, so that it has no logarithm.
    """

    def __init__(self, table: ScoreTable, fields: tuple[str, ...] = ()) -> None:
        smallest = np.finfo(np.float64).tiny  # as in ScoreTable.relevance
        self.logs = {"ctr": np.log(np.maximum(table.pctr, smallest))}
        if table.pcvr is not None:
            self.logs["cvr"] = np.log(np.maximum(table.pcvr, smallest))
        self.delta = dict(table.delta)
        self.log_value = {name: np.log(positive_field(table, name)) for name in fields}

    def __call__(self, point: TradeOff) -> np.ndarray:
        """u of every row, float64 (N,).

        Raises:
            UserError: the trade-off names an objective or field that the table has no scores of.
        """
        _known(point.omega, self.delta, "list-wise objective")
        _known(point.relevance, self.logs, "pointwise objective")
        _known(point.value, self.log_value, "value column")
        # One term after another, not a matrix product: equal rows must get equal sums, or ties break at random.
        terms = [point.relevance.get(name, 1.0) * values for name, values in self.logs.items()]
        total = terms[0] if len(terms) == 1 else terms[0] + terms[1]
        for name, weight in point.omega.items():
            total = total + weight * self.delta[name]
        for name, weight in point.value.items():
            total = total + weight * self.log_value[name]
        return total


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


def _known(named: Mapping[str, float], there: Mapping[str, np.ndarray], kind: str) -> None:
    for name in named:
        if name not in there:
            raise UserError(f"'{name}' is no {kind} of the score table: name one of: {', '.join(there) or 'none'}")
