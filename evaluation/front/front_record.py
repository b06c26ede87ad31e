"""front.json and operating_point.json: everything that `equipoise front` measured, and what it chose."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from equipoise.configs.schema import RunConfig
from equipoise.evaluation.front.choice import Choice
from equipoise.evaluation.front.constraint import Constraint
from equipoise.evaluation.front.grid import Grid
from equipoise.evaluation.front.pareto import Front
from equipoise.evaluation.front.points import Measurement, TradeOffScorer

VERSION = 1


def front_record(
    config: RunConfig, grid: Grid, measure: TradeOffScorer, measurement: Measurement, front: Front
) -> dict:
    """What was measured on the validation split, and its front; docs/operating_point.md gives the meaning of every key.

    Args:
        config: of the run.
        grid: of the trade-offs.
        measure: on the validation split.
        measurement: of all trade-offs.
        front: of some of the axes.
    """
    points = [
        {
            **point.to_json(),
            "metrics": values_of(measurement, number),
            "intervals": {axis: measurement.interval(number, axis) for axis in measurement.axes},
            "on_front": bool(front.mask[number]),
        }
        for number, point in enumerate(measurement.points)
    ]
    return {
        "version": VERSION,
        "run": config.name,
        "seed": config.seed,
        "valid": {"requests": measure.requests, "rows": len(measure.table), "resamples": measurement.samples.shape[2]},
        "cutoff": measure.measured.cutoff,
        "attributes": {
            "diversity": list(measure.measured.diversity_attributes),
            "category": measure.measured.category_attribute,
            "provider": measure.measured.provider_attribute,
            "value": measure.measured.value_field,
        },
        "grid": grid.to_json(),
        "axes": list(front.axes),
        "ideal": dict(zip(front.axes, front.ideal.tolist(), strict=True)),
        "nadir": dict(zip(front.axes, front.nadir.tolist(), strict=True)),
        "hypervolume": front.covered(),
        "extremes": front.extremes,
        "front": front.points.tolist(),
        "points": points,
    }


def values_of(measurement: Measurement, point: int) -> dict[str, float]:
    """Axis → value of one point."""
    return dict(zip(measurement.axes, measurement.values[point].tolist(), strict=True))


def choice_record(choice: Choice, measurement: Measurement, front: Front, test: Measurement | None) -> dict[str, Any]:
    """A choice, how sure it is, and what it reaches on both splits beside pure relevance."""
    number = choice.point
    record = {
        "way": choice.way,
        "how": choice.how,
        **choice.details,
        "point": number,
        **measurement.points[number].to_json(),
        "on_front": bool(front.mask[number]),
        "same_point_in_resamples": choice.stability(measurement),
        "front_points_not_told_apart": alike(number, measurement, front),
        "valid": beside_relevance(measurement, number),
    }
    return record | ({"test": beside_relevance(test, 1)} if test is not None else {})


def alike(number: int, measurement: Measurement, front: Front) -> list[int]:
    """Other points of the front that no axis of it separates from this one."""
    others = [int(other) for other in front.points if other != number]
    return [other for other in others if measurement.alike(number, other, front.axes)]


def beside_relevance(measurement: Measurement, point: int) -> dict[str, Any]:
    """Axis → value and its interval, that of pure relevance (point 0), the difference and its paired interval."""
    values = {}
    for axis, value in values_of(measurement, point).items():
        plain = values_of(measurement, 0)[axis]
        values[axis] = {
            "value": value,
            "interval": measurement.interval(point, axis),
            "relevance": plain,
            "relevance_interval": measurement.interval(0, axis),
            "difference": value - plain,
            "difference_interval": measurement.interval(point, axis, against=0),
        }
    return values


def kept_on_test(constraints: Sequence[Constraint], test: Measurement) -> list[dict[str, Any]]:
    """Of each constraint what the chosen point reaches on the test split, its bound there, and whether it is kept.

    Args:
        constraints: that the point was chosen by.
        test: pure relevance (point 0) and the chosen point (point 1).
    """
    found = []
    for constraint in constraints:
        plain, value = test.of([constraint.axis])[:, 0]
        about = {"constraint": str(constraint), "axis": constraint.axis, "value": float(value)}
        about |= {"interval": test.interval(1, constraint.axis), "bound": float(constraint.bound(plain))}
        found.append(about | {"kept": bool(constraint.holds(np.array([value]), plain)[0])})
    return found


def operating_point(choice: Choice, measurement: Measurement, grid: Grid, measure: TradeOffScorer) -> dict[str, Any]:
    """The content of operating_point.json: the choice as servers need it, with the bounds of what was measured."""
    point = measurement.points[choice.point]
    values, plain = values_of(measurement, choice.point), values_of(measurement, 0)
    reached = ", ".join(f"{axis}@{measure.measured.cutoff} {plain[axis]:.3f} → {values[axis]:.3f}" for axis in values)
    note = (
        f"chosen by `equipoise front` ({choice.how}) on {measure.requests:,} validation requests; "
        f"pure relevance → this point: {reached}"
    )
    return {**point.to_json(), "bounds": grid.bounds, "way": choice.way, "note": note}
