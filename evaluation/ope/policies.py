"""What is judged: operating points on the logged scores, or rankings that another system made.

Shape suffixes: R requests, C candidates, K places.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import yaml

from equipoise.common.errors import UserError
from equipoise.common.lists import UNKNOWN, ListMaker, ListRule, path_numbers
from equipoise.evaluation.metrics.codes import encode
from equipoise.evaluation.ope.shown import ShownLists


@dataclass(frozen=True)
class Policy:
    """An operating point.

    Attributes:
        name: by which it is reported.
        omega: ω by list-wise objective; one that is not named has 0.
        value_weight: ω_value.
    """

    name: str
    omega: Mapping[str, float] = field(default_factory=dict)
    value_weight: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The fields."""
        return {"name": self.name, "omega": dict(self.omega), "value_weight": self.value_weight}


class Lister:
    """Makes the list of every logged request under an operating point.

    Args:
        shown: the log.
        rule: how the export makes lists; None sorts by utility.

    Raises:
        UserError: the rule reads an attribute that the log has not, or the log's lists were made by a rule that is not
            given.
    """

    def __init__(self, shown: ShownLists, rule: ListRule | None) -> None:
        self.shown, self.rule = shown, rule
        self.maker: ListMaker | None = None
        if rule is None:
            if shown.attributes:
                raise UserError(
                    f"the log's lists are made by {', '.join(shown.attributes)}: name the export that made them by "
                    "--export, which holds the rule"
                )
            return
        prices, paths = {}, {}
        for name, term in rule.terms.items():
            for attribute in term.attributes:
                if attribute not in shown.attributes:
                    raise UserError(f"the log has no attribute_{attribute}, by which the export makes lists: log again")
            if term.kind == "price":
                values_RC = shown.attributes[term.attributes[0]]
                prices[name] = np.vectorize(lambda value, known=term.prices: known.get(value or UNKNOWN, 0.0))(
                    values_RC
                )
            elif term.kind == "spread":
                codes = [encode(shown.attributes[each].ravel())[0] for each in term.attributes]
                paths[name] = path_numbers([code.reshape(shown.filled_RC.shape) for code in codes])
        delta = {name: shown.delta[name] for name in rule.terms}
        self.maker = ListMaker(rule, shown.filled_RC, delta, prices, paths)

    def __call__(self, policy: Policy) -> np.ndarray:
        """The candidates at the places that were shown, int64 (R, K), −1 where none was.

        Raises:
            UserError: ω names no objective of the log, or values are missing.
        """
        shown = self.shown
        for name in policy.omega:
            if name not in shown.delta:
                known = ", ".join(shown.delta) or "none"
                raise UserError(f"policy '{policy.name}' names '{name}', but the log has adjustments of: {known}")
        added = policy.omega if self.rule is None else self.rule.adjusts(policy.omega)
        utility_RC = shown.base_RC
        for name, weight in added.items():
            utility_RC = utility_RC + weight * shown.delta[name]
        if policy.value_weight:
            if not (shown.value_RC[shown.filled_RC] > 0).all():
                raise UserError(
                    f"policy '{policy.name}' weighs values, and not every candidate of the log has one: log requests "
                    "that bring them, or leave value_weight out"
                )
            value_RC = np.where(shown.filled_RC, shown.value_RC, 1.0)
            utility_RC = utility_RC + policy.value_weight * np.log(value_RC)
        places = shown.order_RK.shape[1]
        if self.maker is not None and self.maker.rule.active(policy.omega):
            filled = self.maker(np.where(shown.filled_RC, utility_RC, -np.inf), policy.omega, places)
            order_RK = np.full(shown.order_RK.shape, -1)
            for row in range(len(shown)):
                best = filled.order(row)[:places]
                order_RK[row, : len(best)] = best
        else:
            order_RK = np.argsort(-utility_RC, axis=1, kind="stable")[:, :places]
        return np.where(shown.shown_RK, order_RK, -1)


def read_policies(path: Path) -> list[Policy]:
    """Operating points of a YAML or JSON file: a list of {name, omega, value_weight}, or front.json of a run.

    Raises:
        UserError: the file cannot be read, or a point is malformed.
    """
    try:
        found = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"--policy {path} cannot be read as YAML or JSON: name another file") from error
    if isinstance(found, dict) and isinstance(found.get("points"), list):  # front.json
        points = [point for point in found["points"] if point.get("on_front")]
        if any(point.get("relevance_weights") or point.get("value_exponents") for point in points):
            raise UserError(
                f"--policy {path} moves other weights than ω, which a log does not tell apart: leave it out"
            )
        return [Policy(_name(point["omega"]), point["omega"]) for point in points]
    if not isinstance(found, list) or not found:
        raise UserError(
            f"--policy {path} holds no list of points: write - {{name: NAME, omega: {{OBJECTIVE: NUMBER}}}}"
        )
    return [_policy(path, number, each) for number, each in enumerate(found)]


def _policy(path: Path, number: int, given: Any) -> Policy:
    keys = ("name", "omega", "value_weight")
    where = f"--policy {path}, point {number + 1}"
    if not isinstance(given, dict) or set(given) - set(keys):
        raise UserError(f"{where} is not a point: give {', '.join(keys)}")
    omega, value = given.get("omega") or {}, given.get("value_weight", 0.0)
    numbers = [*omega.values(), value] if isinstance(omega, dict) else [None]
    if not all(isinstance(each, int | float) and np.isfinite(each) for each in numbers):
        raise UserError(
            f"{where} has a weight that is no finite number: correct {json.dumps(given, default=str)[:120]}"
        )
    weights = {str(name): float(each) for name, each in omega.items()}
    return Policy(str(given.get("name") or _name(weights)), weights, float(value))


def _name(omega: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {weight:.4g}" for name, weight in omega.items() if weight) or "pure relevance"


def read_ranking(path: Path, shown: ShownLists) -> np.ndarray:
    """A ranking of the logged candidates that another system made (request_id, item_id, rank from 1), int64 (R, K).

    Raises:
        UserError: the table cannot be read, or does not rank what was shown in a request.
    """
    reader = {".parquet": "read_parquet(?)", ".csv": "read_csv(?, all_varchar = true)"}.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"--ranking {path} has an unknown ending: give .parquet or .csv")
    query = "SELECT request_id::VARCHAR, item_id::VARCHAR, rank::BIGINT FROM"
    try:
        rows = duckdb.connect().execute(f"{query} {reader} ORDER BY 1, 3", [str(path)]).fetchall()
    except duckdb.Error as error:
        raise UserError(
            f"--ranking {path} cannot be read ({str(error).splitlines()[0]}): it needs request_id, item_id and rank"
        ) from error
    ranked: dict[str, list[str]] = {}
    for request, item, _ in rows:
        ranked.setdefault(request, []).append(item)
    order_RK = np.full(shown.order_RK.shape, -1)
    for row, request in enumerate(shown.request):
        count = int(shown.shown_RK[row].sum())
        index = {item: number for number, item in enumerate(shown.items_RC[row]) if item is not None}
        best: Sequence[str] = ranked.get(request, [])[:count]
        if len(best) < count or any(item not in index for item in best):
            raise UserError(
                f"--ranking {path} does not rank {count} of the logged candidates of request '{request}': rank all "
                "that was logged"
            )
        order_RK[row, :count] = [index[item] for item in best]
    return order_RK
