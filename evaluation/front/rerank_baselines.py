"""Re-ranking methods on the axes of a front: what they reach, and how much space they cover beside the trade-offs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from equipoise.common.console import new_table
from equipoise.evaluation.front.axes import Measured
from equipoise.evaluation.front.pareto import MARGIN, front_mask, hypervolume
from equipoise.evaluation.front.points import Measurement, TradeOffScorer
from equipoise.evaluation.metrics.bootstrap import interval
from equipoise.evaluation.metrics.score_table import ScoreTable
from equipoise.evaluation.rerankers import (
    BOOST,
    BOOST_P,
    DIVERSE,
    MAX_SUM_P,
    MMR,
    PRICES,
    GroupState,
    Rerank,
    Reranker,
    ways,
)

OURS = "ours"


@dataclass(frozen=True)
class RerankedPoints:
    """All strengths of a method.

    Attributes:
        points: the P strengths, pure relevance first.
        values: float64 (P, A), of the axes asked for.
        samples: the values in every resample of the requests, float64 (P, A, B).
    """

    points: tuple[Rerank, ...]
    values: np.ndarray
    samples: np.ndarray

    def to_json(self, axes: Sequence[str]) -> list[dict[str, Any]]:
        """Each point in words, and its values."""
        return [
            {"rerank": point.words(), "metrics": dict(zip(axes, values.tolist(), strict=True))}
            for point, values in zip(self.points, self.values, strict=True)
        ]


def methods_of(measured: Measured, axes: Sequence[str]) -> dict[str, tuple[str | None, str | None]]:
    """Name → its method for similar candidates and that for groups, of those that can move one of the axes."""
    diverse = {"ild", "coverage"} & set(axes) and measured.diversity_attributes
    fair = "exposure_ratio" in axes
    pairs: list[tuple[str | None, str | None]] = []
    if diverse:
        pairs += [(method, BOOST if fair else None) for method in DIVERSE] + ([(MMR, PRICES)] if fair else [])
        pairs.append((MAX_SUM_P, BOOST_P if fair else None))
    elif fair:
        pairs += [(None, BOOST), (None, PRICES), (None, BOOST_P)]
    return {" + ".join(filter(None, pair)): pair for pair in pairs}


def rerank(
    table: ScoreTable, scorer: TradeOffScorer, axes: Sequence[str], before: GroupState | None = None
) -> tuple[dict[str, RerankedPoints], GroupState]:
    """Measure all strengths of all methods on a split; their points by name, and what the split says of its groups.

    Args:
        table: the scored split.
        scorer: of the same table.
        axes: of the front.
        before: of the split that served before; None takes this split's own boosts, and prices that begin at 0.
    """
    measured = scorer.measured
    lists = Reranker(
        table, table.relevance, measured.cutoff, measured.diversity_attributes, measured.provider_attribute
    )
    own = lists.state(before)
    state = before or GroupState(own.lift)
    found = {}
    for name, (diverse, fair) in methods_of(measured, axes).items():
        points = tuple(ways(diverse, fair))
        values = np.stack([scorer.axes_of(lists.utility(point, state), axes) for point in points])
        found[name] = RerankedPoints(points, values[:, :, 0], values[:, :, 1:])
    return found, own


def volumes(
    measurement: Measurement, baselines: Mapping[str, RerankedPoints], axes: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Hypervolume of ours and of each method in one frame, the difference of ours, and its paired interval.

    The frame spans all of their fronts: from a tenth below the worst value of each axis to its best, as a share of
    that box.

    Args:
        measurement: of the trade-offs.
        baselines: of `rerank`, in the same resamples.
        axes: of the front.
    """
    columns = measurement.columns(axes)
    values = {OURS: measurement.values[:, columns]} | {name: each.values for name, each in baselines.items()}
    samples = {OURS: measurement.samples[:, columns]} | {name: each.samples for name, each in baselines.items()}
    fronts = np.concatenate([each[front_mask(each)] for each in values.values()])
    low, high = fronts.min(axis=0), fronts.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    reference = np.full(len(axes), -MARGIN)

    def volume(points: np.ndarray) -> float:
        return hypervolume(np.minimum((points - low) / span, 1.0), reference) / (1 + MARGIN) ** len(axes)

    covered = {name: volume(each) for name, each in values.items()}
    drawn = {
        name: np.array([volume(each[:, :, number]) for number in range(each.shape[2])])
        for name, each in samples.items()
    }
    found = {}
    for name in values:
        about: dict[str, Any] = {"hypervolume": covered[name], "points": int(front_mask(values[name]).sum())}
        if name != OURS:
            apart = drawn[OURS] - drawn[name]
            bounds = interval(apart) if len(apart) else [float("nan")] * 2
            about |= {"difference": covered[OURS] - covered[name], "difference_interval": bounds}
        found[name] = about
    return found


def volume_table(splits: Mapping[str, Mapping[str, Mapping[str, Any]]], axes: Sequence[str]) -> Table:
    """A line per method and split: its hypervolume, and that of ours less it."""
    numbers = ["hypervolume", "ours less it", "95 % interval"]
    table = new_table(f"hypervolume of {', '.join(axes)} as a fraction of one box", ["", "split"], numbers)
    for name in next(iter(splits.values())):
        for split, rows in splits.items():
            row = rows[name]
            cells = [f"{row['hypervolume']:.3f}"]
            if name != OURS:
                low, high = row["difference_interval"]
                cells += [f"{row['difference']:+.3f}", f"{low:+.3f} … {high:+.3f}"]
            table.add_row(name if split == next(iter(splits)) else "", split, *cells)
    return table
