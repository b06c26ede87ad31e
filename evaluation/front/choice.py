"""Three ways to choose one measured trade-off: by weights, by constraints, by the knee of the front.

Each is a function of the values alone, so it can be repeated on every bootstrap resample.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from equipoise.common.errors import UserError
from equipoise.evaluation.front.axes import read_axis
from equipoise.evaluation.front.constraint import Constraint
from equipoise.evaluation.front.pareto import Front, front_mask
from equipoise.evaluation.front.points import Measurement

Rule = Callable[[np.ndarray], int | None]


@dataclass(frozen=True)
class Choice:
    """One chosen point.

    Attributes:
        way: `weights`, `constraint` or `knee`.
        how: in words.
        point: its number.
        rule: values (P, A of `axes`) → number of the point, None where nothing can be chosen.
        axes: the axes that the rule reads.
        details: what else there is to record.
    """

    way: str
    how: str
    point: int
    rule: Rule
    axes: tuple[str, ...]
    details: Mapping[str, Any] = field(default_factory=dict)

    def stability(self, measurement: Measurement) -> float:
        """The share of bootstrap resamples in which the same rule takes the same point; NaN without resamples."""
        samples = measurement.samples[:, measurement.columns(self.axes)]
        if not samples.shape[2]:
            return float("nan")
        picked = [self.rule(samples[:, :, number]) for number in range(samples.shape[2])]
        return float(np.mean([point == self.point for point in picked]))


def parse_weights(
    text: str, axes: Sequence[str], cutoff: int, objectives: Mapping[str, str] | None = None
) -> dict[str, float]:
    """`ctr=0.6,cvr=0.4` as axis → weight; `objectives` as `read_axis` takes them.

    Raises:
        UserError: the text cannot be read so, or names what is not measured, or the same axis twice, or a weight is
            not positive.
    """
    weights: dict[str, float] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, number = part.partition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = float("nan")
        if not 0 < weight < float("inf"):
            raise UserError(f"--weights: '{part}' gives no positive weight: write for example ctr=0.6,cvr=0.4")
        axis = read_axis(name, axes, cutoff, "--weights", objectives)
        if axis in weights:
            raise UserError(f"--weights: '{name.strip()}' names {axis} a second time: give each axis one weight")
        weights[axis] = weight
    if not weights:
        raise UserError("--weights names no axis: write for example ctr=0.6,cvr=0.4")
    return weights


def by_weights(measurement: Measurement, weights: Mapping[str, float]) -> Choice:
    """The largest Σ w_a z_a, z_a the axis scaled to 0 (worst) … 1 (best) over all measured trade-offs.

    Among equals the one nearest to pure relevance that no other dominates on these axes. With positive weights it is
    on the front of the named axes (Miettinen 1999, theorem 3.1.2).
    """
    axes = tuple(weights)
    strength = np.array([weights[axis] for axis in axes])
    strength = strength / strength.sum()

    def rule(values: np.ndarray) -> int | None:
        if not np.isfinite(values).all():
            return None
        score = scaled(values) @ strength
        best = score >= score.max() - 1e-12
        return int(np.flatnonzero(best & front_mask(np.where(best[:, None], values, -np.inf)))[0])

    named = " + ".join(f"{weight:.3g} {axis}" for axis, weight in zip(axes, strength, strict=True))
    how = f"largest {named}, each axis scaled to 0 (worst) … 1 (best) over the measured points"
    details = {"weights": dict(zip(axes, strength.tolist(), strict=True))}
    return _chosen("weights", how, measurement, rule, axes, details)


def scaled(values: np.ndarray) -> np.ndarray:
    """Values (P, A) with the worst of each axis at 0 and the best at 1; an axis that never changes is 1 throughout."""
    low, high = values.min(axis=0), values.max(axis=0)
    return np.divide(values - low, high - low, out=np.ones_like(values), where=high > low)


def by_constraint(
    measurement: Measurement, constraints: Sequence[Constraint], maximize: str, confidence: float = 0.0
) -> Choice:
    """The largest value of the axis `maximize` among the points that fulfil all constraints.

    Args:
        measurement: of all points.
        constraints: that must hold.
        maximize: an axis.
        confidence: share of the resamples of the requests in which all of them must hold too; without resamples the
            measured values alone count.

    Raises:
        UserError: no point does; names the nearest one and by how much it misses.
    """
    axes = tuple(dict.fromkeys([maximize, *(constraint.axis for constraint in constraints)]))
    columns = {axis: column for column, axis in enumerate(axes)}

    sure_P = _share_held(measurement, constraints)
    confident_P = sure_P >= confidence

    def rule(values: np.ndarray) -> int | None:
        if not np.isfinite(values).all():
            return None
        holds = confident_P.copy()
        for constraint in constraints:
            column = values[:, columns[constraint.axis]]
            holds &= constraint.holds(column, column[0])
        if not holds.any():
            return None
        best = holds & (values[:, 0] >= values[holds, 0].max())
        return int(np.flatnonzero(best & front_mask(np.where(best[:, None], values, -np.inf)))[0])

    point = rule(measurement.of(axes))
    if point is None:
        raise UserError(_unfulfilled(measurement, constraints, sure_P, confidence))
    words = " and ".join(map(str, constraints))
    details: dict[str, Any] = {"where": words, "maximize": maximize}
    how = f"largest {maximize} where {words}"
    if confidence and measurement.samples.shape[2]:
        details |= {"confidence": confidence, "holds_in_resamples": float(sure_P[point])}
        how += f" in {confidence:.0%} of the resamples or more"
    return _chosen("constraint", how, measurement, rule, axes, details)


def _share_held(measurement: Measurement, constraints: Sequence[Constraint]) -> np.ndarray:
    """The share of resamples in which all constraints hold, float64 (P,); 1 without resamples."""
    if not measurement.samples.shape[2]:
        return np.ones(len(measurement.points))
    held_PB = np.ones((len(measurement.points), measurement.samples.shape[2]), bool)
    for constraint in constraints:
        column_PB = measurement.samples[:, measurement.axes.index(constraint.axis)]
        held_PB &= constraint.holds(column_PB, column_PB[0])
    return held_PB.mean(axis=1)


def _unfulfilled(
    measurement: Measurement, constraints: Sequence[Constraint], sure_P: np.ndarray, confidence: float
) -> str:
    """Which point comes nearest (by the sum of what it misses, each over the range of its axis), and what it misses.

    Where some fulfil all and none in enough resamples, the surest of them.
    """
    asked = " and ".join(map(str, constraints))
    held_P = np.ones(len(measurement.points), bool)
    for constraint in constraints:
        column = measurement.of([constraint.axis])[:, 0]
        held_P &= constraint.holds(column, column[0])
    if held_P.any():
        surest = int(np.argmax(np.where(held_P, sure_P, -1.0)))
        return (
            f"--where: no measured point fulfils {asked} in {confidence:.0%} of the resamples; the surest is "
            f"{measurement.points[surest].words()}, in {sure_P[surest]:.0%}: score more requests with --set "
            "evaluate.max_requests=N, loosen the constraint, or lower --confidence"
        )
    missed = []
    for constraint in constraints:
        column = measurement.of([constraint.axis])[:, 0]
        span = column.max() - column.min()
        missed.append(constraint.missed(column, column[0]) / (span if span > 0 else 1.0))
    nearest = int(np.argmin(np.sum(missed, axis=0)))
    phrases = []
    for constraint in constraints:
        column = measurement.of([constraint.axis])[:, 0]
        short = float(constraint.missed(column, column[0])[nearest])
        if short:
            bound = constraint.bound(column[0])
            phrases.append(f"{constraint.axis} {column[nearest]:.4f}, {short:.4g} from {bound:.4g}")
    return (
        f"--where: none of the {len(measurement.points)} measured points fulfils {asked}; the nearest is "
        f"{measurement.points[nearest].words()} ({'; '.join(phrases)}): loosen the constraint, or widen --omegas"
    )


def by_knee(measurement: Measurement, axes: Sequence[str]) -> Choice:
    """The point of the front with the largest sum of its axes, each scaled to 0 at the nadir and 1 at the ideal.

    With two axes that is the point farthest from the chord between the ends of the front, the knee of Das (1999). With
    more, the direction (1, …, 1) is that of normal-boundary intersection (Das & Dennis 1998, quasi-normal); the plane
    through the extreme points would do as well, but tips over where two of them lie close together.
    """
    axes = tuple(axes)

    def rule(values: np.ndarray) -> int | None:
        if not np.isfinite(values).all():
            return None
        front = Front(values, axes)
        numbers = front.points
        return int(numbers[np.argmax(front.normalised[numbers].sum(axis=1))])

    how = f"knee of the front: largest sum of {', '.join(axes)}, each scaled to 0 (nadir) … 1 (ideal)"
    return _chosen("knee", how, measurement, rule, axes, {})


def _chosen(
    name: str, how: str, measurement: Measurement, rule: Rule, axes: tuple[str, ...], details: Mapping[str, Any]
) -> Choice:
    point = rule(measurement.of(axes))
    if point is None:
        raise UserError(f"{', '.join(axes)}: not defined on the scored requests: name other axes, or score more")
    return Choice(name, how, point, rule, axes, details)
