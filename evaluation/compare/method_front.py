"""The front of each method over its configs and operating points: hypervolume and IGD⁺, in one common frame."""

from collections.abc import Sequence
from dataclasses import dataclass

import moocore
import numpy as np

from equipoise.common.errors import UserError
from equipoise.configs.objectives import BUILT_IN
from equipoise.evaluation.compare.differences import setting, written
from equipoise.evaluation.compare.relative_change import common_cutoff, metric_of
from equipoise.evaluation.compare.seeds import SeedPool
from equipoise.evaluation.front.pareto import MARGIN, front_mask, hypervolume
from equipoise.evaluation.metrics.metric_names import direction


@dataclass(frozen=True)
class FrontPoint:
    """A pool at an operating point.

    Attributes:
        method: value of the setting by which fronts are told apart.
        pool: its name.
        operating_point: its name; empty where the axes do not depend on it.
        values: on the axes, in their own units.
    """

    method: str
    pool: str
    operating_point: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class MethodFront:
    """How far the points of one method reach.

    Attributes:
        method: value of the setting.
        points: how many it has.
        on_own: how many of them no other of its own dominates.
        on_common: how many of them are on the front of all methods.
        hypervolume: share of the box between reference and ideal, 0 to 1.
        igd_plus: mean distance (Ishibuchi et al. 2015) from the common front, in ranges; 0 where it holds all of it.
    """

    method: str
    points: int
    on_own: int
    on_common: int
    hypervolume: float
    igd_plus: float


@dataclass(frozen=True)
class MethodFronts:
    """All methods in one frame.

    Attributes:
        by: the setting that tells methods apart.
        axes: names of the metrics.
        reference, ideal: ends of the box of the hypervolume, in the axes' own units.
        points: of all methods.
        fronts: one per method, the largest hypervolume first.
    """

    by: str
    axes: tuple[str, ...]
    reference: tuple[float, ...]
    ideal: tuple[float, ...]
    points: tuple[FrontPoint, ...]
    fronts: tuple[MethodFront, ...]

    @property
    def on_common(self) -> np.ndarray:
        """Which points are on the front of all methods, bool (P,)."""
        return _undominated(_upward([point.values for point in self.points], self.axes))


def default_axes(pools: Sequence[SeedPool]) -> tuple[str, ...]:
    """NDCG and one axis per list-wise objective that was measured; without any, pCTR and pCTCVR."""
    cutoff = common_cutoff(pools)
    point_metrics = {metric for pool in pools for values in pool.points.values() for metric in values}
    sections = {name: run.config["objectives"][name] for pool in pools for run in pool.runs for name in run.objectives}
    order = [*BUILT_IN, *(name for name in sections if name not in BUILT_IN)]
    metric_pairs = [metric_of(name, [sections[name]]) for name in order if name in sections]
    moved_axes = dict.fromkeys(f"{moved}@{cutoff}" for _, moved in metric_pairs if moved is not None)
    lists = [axis for axis in moved_axes if axis in point_metrics]
    if lists:
        return (f"ndcg@{cutoff}", *lists)
    metrics = {metric for pool in pools for metric in pool.metrics}
    return tuple(axis for axis, _ in metric_pairs if axis in metrics)


def check_axes(axes: Sequence[str], pools: Sequence[SeedPool]) -> None:
    """Raise UserError unless every axis has a better end and is measured by some pool."""
    known = {metric for pool in pools for metric in pool.metrics}
    known |= {metric for pool in pools for values in pool.points.values() for metric in values}
    for axis in axes:
        if axis not in known:
            some = ", ".join(sorted(name for name in known if direction(name))[:12]) or "none"
            raise UserError(f"--axes: no run has the metric '{axis}': name some of those measured ({some}, …)")
        if not direction(axis):
            raise UserError(f"--axes: more of '{axis}' is neither better nor worse: name another metric")
    if len(set(axes)) < len(axes) or len(axes) < 2:
        raise UserError("--axes: a front needs two or more different metrics: name them as ndcg@10,ild@10")


def front_points(pools: Sequence[SeedPool], axes: Sequence[str], by: str) -> list[FrontPoint]:
    """Every pool at every operating point that has all axes, means over seeds; dots that coincide are kept once."""
    kept: dict[FrontPoint, None] = {}
    for pool in pools:
        method = written(setting(pool.config, by))
        run_metrics = {name: value.mean for name, value in pool.metrics.items()}
        per_point = any(axis not in run_metrics for axis in axes)
        for point, values in pool.points.items() if per_point else [("", {})]:
            known = run_metrics | {name: value.mean for name, value in values.items()}
            if all(axis in known for axis in axes):
                kept.setdefault(FrontPoint(method, pool.name, point, tuple(_rounded(known[axis]) for axis in axes)))
    return list(kept)


def method_fronts(pools: Sequence[SeedPool], axes: Sequence[str], by: str) -> MethodFronts | None:
    """The fronts of all methods; None where fewer than two axes or no point are measured.

    The frame is common: the worst and the best value of every axis over the methods' own fronts. The reference point
    lies a tenth of this range below the worst (Ishibuchi et al. 2018), and the hypervolume is the share of the box from
    there to the best. IGD⁺ measures from the front of all methods together.
    """
    points = front_points(pools, axes, by) if len(axes) > 1 else []
    if not points:
        return None
    values = _upward([point.values for point in points], axes)
    rows: dict[str, list[int]] = {}
    for number, point in enumerate(points):
        rows.setdefault(point.method, []).append(number)
    own = {method: np.array(numbers)[front_mask(values[numbers])] for method, numbers in rows.items()}
    fronts = np.concatenate([values[numbers] for numbers in own.values()])
    low, high = fronts.min(axis=0), fronts.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    scaled = (values - low) / span
    common = _undominated(values)
    corner = np.full(len(axes), -MARGIN)
    box = float(np.prod((high - low) / span + MARGIN))
    rows_of_methods = [
        MethodFront(
            method,
            points=len(numbers),
            on_own=len(own[method]),
            on_common=int(common[numbers].sum()),
            hypervolume=hypervolume(scaled[own[method]], corner) / box,
            igd_plus=float(moocore.igd_plus(scaled[own[method]], ref=scaled[common], maximise=True)),
        )
        for method, numbers in rows.items()
    ]
    signs = np.array([direction(axis) for axis in axes])
    return MethodFronts(
        by=by,
        axes=tuple(axes),
        reference=tuple(((low - MARGIN * span) * signs).tolist()),
        ideal=tuple((high * signs).tolist()),
        points=tuple(points),
        fronts=tuple(sorted(rows_of_methods, key=lambda front: -front.hypervolume)),
    )


def _rounded(value: float) -> float:
    """The value to 12 digits: means over a different number of equal values must not dominate one another."""
    return float(f"{value:.12g}")


def _undominated(values: np.ndarray) -> np.ndarray:
    """Which points (P, A) no other one dominates, bool (P,); equal points are all kept, whatever their method."""
    return np.asarray(moocore.is_nondominated(values, maximise=True, keep_weakly=True))


def _upward(values: Sequence[Sequence[float]], axes: Sequence[str]) -> np.ndarray:
    """The values with every axis turned so that more is better, float64 (P, A)."""
    return np.array(values, np.float64) * [direction(axis) for axis in axes]
