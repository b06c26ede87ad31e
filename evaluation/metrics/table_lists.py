"""The lists of a score table under any ω: by the rule of its run, or sorted by relevance plus ω δ."""

from collections.abc import Mapping

import numpy as np

from equipoise.common.errors import UserError
from equipoise.common.lists import UNKNOWN, ListMaker, ListRule, filled, pad, path_numbers
from equipoise.evaluation.metrics.codes import encode
from equipoise.evaluation.metrics.score_table import ScoreTable


def request_sizes(request: np.ndarray) -> np.ndarray:
    """How many rows each request has, int64 (R,), in the order of the rows; those of a request are contiguous."""
    starts = np.flatnonzero(np.r_[True, request[1:] != request[:-1]]) if len(request) else np.zeros(0, np.int64)
    return np.diff(np.r_[starts, len(request)])


def path_codes(table: ScoreTable, attributes: tuple[str, ...]) -> np.ndarray:
    """Codes of the attribute path of every row, int64 (N, A): equal in column a where the path agrees up to level a."""
    if not attributes:
        return np.empty((len(table), 0), np.int64)
    codes = [encode(table.item_values(name))[0] for name in attributes]
    return path_numbers(codes)[table.item]


class TableLists:
    """Turns relevance and adjustments of a table's rows into a score whose order is that of the lists.

    Args:
        table: N rows with the attributes of their items.
        delta: adjustments by list-wise objective, float64 (N,).
        rule: of the run; None adds ω δ to the relevance.

    Raises:
        UserError: the table keeps no attribute that the rule reads.
    """

    def __init__(self, table: ScoreTable, delta: Mapping[str, np.ndarray], rule: ListRule | None) -> None:
        self.delta, self.rule = delta, rule
        self.maker: ListMaker | None = None
        if rule is None or not len(table):
            return
        sizes = request_sizes(table.request)
        self.filled_RC = filled(sizes)
        prices, paths = {}, {}
        for name, term in rule.terms.items():
            if term.kind == "price":
                values = table.item_values(term.attributes[0])
                names = [UNKNOWN if value is None else value for value in values]
                of_items = np.array([term.prices.get(value, 0.0) for value in names])
                prices[name] = pad(of_items[table.item], sizes, 0.0)
            elif term.kind == "spread":
                paths[name] = pad(path_codes(table, term.attributes), sizes, -1)
        padded = {name: pad(values, sizes, 0.0) for name, values in delta.items()}
        self.maker = ListMaker(rule, self.filled_RC, padded, prices, paths)

    def __call__(self, relevance: np.ndarray, omega: Mapping[str, float]) -> np.ndarray:
        """A score of every row, float64 (N,).

        Args:
            relevance: r with what else is added to it, (N,).
            omega: by list-wise objective.

        Raises:
            UserError: ω names no adjustment of the table.
        """
        for name in omega:
            if name not in self.delta:
                known = ", ".join(self.delta) or "none"
                raise UserError(f"the operating point names '{name}', but the score table has adjustments of: {known}")
        added = omega if self.rule is None else self.rule.adjusts(omega)
        for name, weight in added.items():
            relevance = relevance + weight * self.delta[name]
        if self.maker is None or not self.maker.rule.active(omega):
            return relevance
        utility_RC = np.full(self.filled_RC.shape, -np.inf)
        utility_RC[self.filled_RC] = relevance
        return self.maker.scores(utility_RC, omega)[self.filled_RC]
