"""The weights ω of an export's list-wise objectives, and between which bounds a request may set them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from configs.errors import UserError
from serving.request_error import RequestError
from serving.values import mapping, number

DEFAULT_BOUNDS = (0.0, 5.0)


@dataclass(frozen=True)
class OperatingPoint:
    """ω and its bounds (least, most), both by the names of all list-wise objectives."""

    omega: dict[str, float]
    bounds: dict[str, tuple[float, float]]

    def omega_of(self, wanted: Any) -> dict[str, float]:
        """ω of a request: what it asks for, and the export's own weight of every objective that it leaves out.

        Raises:
            RequestError: a name is unknown, or a weight is no number or out of its bounds.
        """
        if wanted is None:
            return dict(self.omega)
        asked: dict[str, float] = {}
        for name, value in mapping("omega", wanted).items():
            if name not in self.omega:
                known = ", ".join(self.omega) or "none, for this export has no list-wise objective"
                raise RequestError("omega", f"names '{name[:40]}', which is no list-wise objective: use {known}")
            weight, (least, most) = number(f"omega.{name}", value), self.bounds[name]
            if not least <= weight <= most:
                raise RequestError(f"omega.{name}", f"is {weight:g}: give a number from {least:g} to {most:g}")
            asked[name] = weight
        return {**self.omega, **asked}


def read_operating_point(record: Mapping[str, Any], listwise: tuple[str, ...]) -> OperatingPoint:
    """The operating point of serving.json.

    Raises:
        UserError: a weight or its bounds are missing or senseless.
    """
    point = record.get("operating_point") or {}
    omega, given = point.get("omega") or {}, point.get("bounds") or {}
    bounds: dict[str, tuple[float, float]] = {}
    for name in listwise:
        weight = omega.get(name)
        pair = given.get(name, (min(DEFAULT_BOUNDS[0], weight or 0.0), max(DEFAULT_BOUNDS[1], weight or 0.0)))
        numbers = [weight, *pair] if isinstance(pair, list | tuple) else [None]
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in numbers):
            raise UserError(f"serving.json: operating_point of '{name}' holds no finite numbers: choose one again")
        if len(pair) != 2 or not pair[0] <= weight <= pair[1]:
            raise UserError(f"serving.json: operating_point.omega of '{name}' is out of its bounds: choose one again")
        bounds[name] = (float(pair[0]), float(pair[1]))
    return OperatingPoint({name: float(omega[name]) for name in listwise}, bounds)
