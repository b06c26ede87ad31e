"""The weights of an export's utility, and between which bounds a request may set them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from equipoise.common.errors import UserError
from equipoise.serving.request_error import RequestError
from equipoise.serving.utility import UtilityWeights
from equipoise.serving.values import mapping, number

DEFAULT_BOUNDS = (0.0, 5.0)


@dataclass(frozen=True)
class OperatingPoint:
    """ω and its bounds (least, most), both by the names of all list-wise objectives, and the other weights.

    Attributes:
        omega, bounds: by list-wise objective.
        relevance: v of the pointwise objectives that have another weight than 1, by the operating point or the export's
            formula of relevance; requests cannot change it.
        value_field: the context field whose number is a candidate's value where it brings none; None without one.
        value_weight, value_bounds: ω_value where a request gives none, and what it may give.
    """

    omega: dict[str, float]
    bounds: dict[str, tuple[float, float]]
    relevance: dict[str, float] = field(default_factory=dict)
    value_field: str | None = None
    value_weight: float = 0.0
    value_bounds: tuple[float, float] = DEFAULT_BOUNDS

    @property
    def nearest_to_relevance(self) -> dict[str, float]:
        """ω of whatever shows no list: 0, or the bound that is nearest to it."""
        return {name: min(max(0.0, least), most) for name, (least, most) in self.bounds.items()}

    def weights_of(self, omega: dict[str, float], value_weight: Any) -> UtilityWeights:
        """All weights of a request's utility.

        Args:
            omega: from `omega_of`.
            value_weight: ω_value as the request gives it, or None.

        Raises:
            RequestError: it is not a number or out of its bounds.
        """
        if value_weight is None:
            return UtilityWeights(omega, self.relevance, self.value_weight)
        weight, (lower, upper) = number("value_weight", value_weight), self.value_bounds
        if not lower <= weight <= upper:
            raise RequestError("value_weight", f"is {weight:g}: give a number from {lower:g} to {upper:g}")
        return UtilityWeights(omega, self.relevance, weight)

    def omega_of(self, given: Any) -> dict[str, float]:
        """ω of a request: what it asks for, and the export's own weight of every objective that it leaves out.

        Raises:
            RequestError: a name is unknown, or a weight is not a number or out of its bounds.
        """
        if given is None:
            return dict(self.omega)
        weights: dict[str, float] = {}
        for name, value in mapping("omega", given).items():
            if name not in self.omega:
                known = ", ".join(self.omega) or "none, for this export has no list-wise objective"
                raise RequestError("omega", f"names '{name[:40]}', which is no list-wise objective: use {known}")
            weight, (lower, upper) = number(f"omega.{name}", value), self.bounds[name]
            if not lower <= weight <= upper:
                raise RequestError(f"omega.{name}", f"is {weight:g}: give a number from {lower:g} to {upper:g}")
            weights[name] = weight
        return {**self.omega, **weights}


def read_operating_point(
    record: Mapping[str, Any], listwise: tuple[str, ...], pointwise: tuple[str, ...] = ()
) -> OperatingPoint:
    """The operating point of serving.json; an objective that it leaves out has ω = 0, or v = 1.

    Raises:
        UserError: there is none, or a weight or its bounds are senseless.
    """
    point = record.get("operating_point") or {}
    given = point.get("bounds") or {}
    if not isinstance(point.get("omega"), Mapping):
        raise UserError("serving.json has no operating_point.omega: export the run again")
    omega = {name: point["omega"].get(name, 0.0) for name in listwise}
    bounds: dict[str, tuple[float, float]] = {}
    for name, weight in omega.items():
        pair = given.get(name, (min(DEFAULT_BOUNDS[0], weight or 0.0), max(DEFAULT_BOUNDS[1], weight or 0.0)))
        numbers = [weight, *pair] if isinstance(pair, list | tuple) else [None]
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in numbers):
            raise UserError(f"serving.json: operating_point of '{name}' holds no finite numbers: choose one again")
        if len(pair) != 2 or not pair[0] <= weight <= pair[1]:
            raise UserError(f"serving.json: operating_point.omega of '{name}' is out of its bounds: choose one again")
        bounds[name] = (float(pair[0]), float(pair[1]))
    more = _more(point, pointwise)
    formula = record.get("relevance_exponents") or dict.fromkeys(pointwise, 1.0)
    weights = {name: float(formula.get(name, 0.0)) for name in pointwise}
    more["relevance"] = {n: w for n, w in {**weights, **more["relevance"]}.items() if w != 1 or n in more["relevance"]}
    return OperatingPoint({name: float(weight) for name, weight in omega.items()}, bounds, **more)


def _more(point: Mapping[str, Any], pointwise: tuple[str, ...]) -> dict[str, Any]:
    """What a front that weighs relevance or value adds: v, and the field, the weight and the bounds of log value."""
    relevance, exponents = point.get("relevance_weights") or {}, point.get("value_exponents") or {}
    if len(exponents) > 1 or not relevance.keys() <= set(pointwise):
        raise UserError(
            "serving.json: operating_point weighs several values, or an objective that is not there: choose one again"
        )
    numbers = [*relevance.values(), *exponents.values()]
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in numbers):
        raise UserError("serving.json: operating_point holds weights that are no finite numbers: choose one again")
    weights = {name: float(weight) for name, weight in relevance.items()}
    if not exponents:
        return {"relevance": weights}
    (name, weight), (least, most) = next(iter(exponents.items())), DEFAULT_BOUNDS
    bounds = (min(least, float(weight)), max(most, float(weight)))
    return {"relevance": weights, "value_field": name, "value_weight": float(weight), "value_bounds": bounds}
