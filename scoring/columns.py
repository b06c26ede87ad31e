"""The columns that `equipoise score` writes, from the logits of a portion of requests."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from equipoise.common.errors import UserError
from equipoise.common.link import Link
from equipoise.common.lists import ListRule, attribute_text, list_order
from equipoise.data.requests.catalogue import Catalogue
from equipoise.data.requests.forms import Request


def parse_omega(text: str | None, listwise: Sequence[str]) -> dict[str, float] | None:
    """The operating point written as `diversity=1.0,fairness=0.5`; None where none is given.

    Raises:
        UserError: a name is no list-wise objective of the run, or a value no number.
    """
    if text is None:
        return None
    omega: dict[str, float] = {}
    for entry in text.split(","):
        name, _, value = (part.strip() for part in entry.partition("="))
        if name not in listwise:
            known = ", ".join(listwise) or "none"
            raise UserError(f"--omega names '{name}', which is no list-wise objective of this run: use {known}")
        try:
            omega[name] = float(value)
        except ValueError:
            omega[name] = math.nan
        if not math.isfinite(omega[name]):
            raise UserError(f"--omega {entry.strip()} has no number: write {name}=1.0")
    return omega


class ScoreColumns:
    """Scores as an Arrow table with one row per candidate.

    Args:
        names: those of `user_id` and `part` that are given.
        pointwise, listwise: the objectives of the model.
        omega: the operating point of `utility`, or None.
        catalogue: knows the item_id of each number.
        exponents, links: the formula of relevance, and what the outputs stand for; as `AdapterInfo` records them.
        lists: how the run makes lists, whose places are then given as `rank`; None sorts by utility.
    """

    def __init__(
        self,
        names: Sequence[str],
        pointwise: Sequence[str],
        listwise: Sequence[str],
        omega: Mapping[str, float] | None,
        catalogue: Catalogue,
        exponents: Mapping[str, float] | None = None,
        links: Mapping[str, Mapping[str, Any]] | None = None,
        lists: ListRule | None = None,
    ) -> None:
        self.exponents, self.lists = exponents, lists
        self.links = {name: Link.of(record) for name, record in (links or {}).items()}
        self.pointwise, self.listwise, self.omega, self.catalogue = pointwise, listwise, omega, catalogue
        kinds = {"request_id": pa.string(), "user_id": pa.string(), "part": pa.int32()}
        columns = [(name, kinds[name]) for name in ("request_id", *names)]
        columns += [("position", pa.int32()), ("item_id", pa.string())]
        numbers = [f"p{name}" for name in pointwise] + ["relevance"] + [f"delta_{name}" for name in listwise]
        columns += [(name, pa.float32()) for name in [*numbers, *(["utility"] if omega is not None else [])]]
        if omega is not None and lists is not None:
            columns.append(("rank", pa.int32()))
        self.schema = pa.schema(columns)

    def table(self, requests: Sequence[Request], scores: Mapping[str, np.ndarray]) -> pa.Table:
        """The rows of requests.

        Args:
            requests: in the order of the scores.
            scores: float64 (N,) logit of each pointwise, adjustment of each list-wise objective.

        Raises:
            UserError: a score is not finite.
        """
        sizes = [len(request.items) for request in requests]
        self._refuse_broken(requests, sizes, scores)
        repeat = pa.array(np.repeat(np.arange(len(requests)), sizes))
        columns: dict[str, pa.Array | pa.ChunkedArray] = {}
        for name in ("request_id", "user_id", "part"):
            if name in self.schema.names:
                kind = self.schema.field(name).type
                columns[name] = pa.array([getattr(request, name) for request in requests], kind).take(repeat)
        columns["position"] = pa.array(np.concatenate([np.arange(size, dtype=np.int32) for size in sizes]))
        columns["item_id"] = self.catalogue.ids(np.concatenate([request.items for request in requests]))
        exponents = self.exponents or dict.fromkeys(self.pointwise, 1.0)
        logs = [v * self.links.get(name, Link()).logs(scores[name]) for name, v in exponents.items()]
        relevance = np.sum(logs, axis=0)
        numbers = {f"p{name}": self._number(name, scores[name]) for name in self.pointwise}
        numbers |= {"relevance": relevance} | {f"delta_{name}": scores[name] for name in self.listwise}
        if self.omega is not None:
            added = self.omega if self.lists is None else self.lists.adjusts(self.omega)
            numbers["utility"] = relevance + sum(weight * scores[name] for name, weight in added.items())
            if self.lists is not None:
                columns["rank"] = pa.array(self._ranks(self.lists, requests, numbers["utility"], scores), pa.int32())
        columns |= {name: pa.array(values.astype(np.float32)) for name, values in numbers.items()}
        return pa.table([columns[name] for name in self.schema.names], schema=self.schema)

    def _ranks(
        self, lists: ListRule, requests: Sequence[Request], utility: np.ndarray, scores: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """The place of every candidate in its request's list, from 1, int32 (N,)."""
        assert self.omega is not None, "without an operating point there is no list"
        ranks, first = np.empty(len(utility), np.int32), 0
        for request in requests:
            part = slice(first, first + len(request.items))
            first = part.stop
            cells = {name: self.catalogue.cells(name, request.items) for name in lists.attributes(self.omega)}
            values = {name: [attribute_text(cell) for cell in each] for name, each in cells.items()}
            delta = {name: scores[name][part] for name in lists.terms}
            order = list_order(lists, utility[part], delta, values, self.omega)
            ranks[part][order] = np.arange(1, len(order) + 1)
        return ranks

    def _number(self, name: str, output: np.ndarray) -> np.ndarray:
        """The probability, value or count."""
        link = self.links.get(name, Link())
        return np.exp(link.logs(output)) if link.name == "sigmoid" else link.value(output)

    def _refuse_broken(
        self, requests: Sequence[Request], sizes: Sequence[int], scores: Mapping[str, np.ndarray]
    ) -> None:
        for name in (*self.pointwise, *self.listwise):
            if not np.isfinite(scores[name]).all():
                index = int(np.argmin(np.isfinite(scores[name])))
                request = requests[int(np.searchsorted(np.cumsum(sizes), index, side="right"))]
                raise UserError(
                    f"request '{request.request_id}' got a score of {name} that is not a finite number: "
                    "evaluate the run, or score with --set backbone.dtype=float32"
                )
