"""The picture of a comparison: the fronts of the methods, and the change against the baseline with its intervals."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from equipoise.common.atomic import atomic_write
from equipoise.common.errors import UserError
from equipoise.common.page.colours import AGAINST, DOMINATED, FOR, NEUTRAL, SERIES
from equipoise.common.robust_range import robust_range
from equipoise.evaluation.compare.against_baseline import Changes
from equipoise.evaluation.compare.comparison import Comparison
from equipoise.evaluation.compare.method_front import MethodFronts
from equipoise.evaluation.front.pareto import front_mask
from equipoise.evaluation.metrics.metric_names import direction, words

MARKERS = "osD^vP*X"
MOST_ROWS = 30


def draw(comparison: Comparison, path: Path) -> None:
    """Write the picture as PNG.

    Raises:
        UserError: no run is evaluated, so there is nothing to draw.
    """
    if comparison.fronts is None:
        raise UserError(f"{path}: nothing can be drawn before two metrics are measured: evaluate the runs first")
    figure = figure_of(comparison, comparison.fronts)
    with atomic_write(path) as partial:
        figure.savefig(partial, format="png", dpi=120)


def figure_of(comparison: Comparison, fronts: MethodFronts) -> Figure:
    """Above, the first axis against each other one; below, one panel per metric with one bar per pool."""
    changes = comparison.changes if comparison.changes and comparison.changes.values else None
    panels = len(fronts.axes) - 1
    below = 1.2 + 0.24 * min(len(changes.values), MOST_ROWS) if changes else 0.0
    width = max(5.2 * panels, 3.2 * len(changes.metrics) if changes else 0, 8.0)
    figure = Figure(figsize=(width, 5.0 + below), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subfigures(2 if changes else 1, 1, squeeze=False, height_ratios=[5.0, below] if changes else None)
    for panel, axis in zip(rows[0, 0].subplots(1, panels, squeeze=False)[0], fronts.axes[1:], strict=True):
        _scatter(panel, fronts, axis)
    handles, labels = rows[0, 0].axes[0].get_legend_handles_labels()
    rows[0, 0].legend(handles, labels, loc="outside lower left", ncols=6, frameon=False, fontsize=9)
    if changes:
        _bars(rows[1, 0], changes)
    return figure


def _scatter(panel: Axes, fronts: MethodFronts, axis: str) -> None:
    first = fronts.axes[0]
    columns = [fronts.axes.index(axis), 0]
    values = np.array([point.values for point in fronts.points])[:, columns]
    signs = np.array([direction(axis), direction(first)])
    on_front = front_mask(values * signs)
    line = values[on_front][np.argsort(values[on_front, 0])]
    panel.step(
        *line.T, where="pre" if signs[0] > 0 else "post", color="#606060", linewidth=1.2, label="front of the two"
    )
    for number, front in enumerate(fronts.fronts):
        of_method = np.array([point.method == front.method for point in fronts.points])
        style: dict[str, Any] = {"marker": MARKERS[number // len(SERIES) % len(MARKERS)], "linewidths": 0.9, "s": 26}
        panel.scatter(*values[of_method & ~on_front].T, color=DOMINATED, **style)
        colour = SERIES[number % len(SERIES)]
        panel.scatter(*values[of_method].T, facecolors="none", edgecolors=colour, label=front.method, **style)
    _leave_outliers(panel, values)
    panel.set_xlabel(words(axis))
    panel.set_ylabel(words(first))
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)


def _leave_outliers(panel: Axes, values: np.ndarray) -> None:
    """Show the robust range of points (P, 2), and say how many lie outside."""
    ranges = np.array([robust_range(column) for column in values.T])
    room = np.where(np.ptp(ranges, axis=1) > 0, 0.06 * np.ptp(ranges, axis=1), 0.01)
    low, high = ranges[:, 0] - room, ranges[:, 1] + room
    panel.set_xlim(low[0], high[0])
    panel.set_ylim(low[1], high[1])
    outside = int(((values < low) | (values > high)).any(axis=1).sum())
    if outside:
        panel.text(0.01, 0.01, f"outside: {outside}", transform=panel.transAxes, fontsize=8, color=NEUTRAL)


def _bars(subfigure: Figure, changes: Changes) -> None:
    names = list(changes.values)[:MOST_ROWS]
    left = f", the first {MOST_ROWS} of {len(changes.values)}" if len(changes.values) > MOST_ROWS else ""
    subfigure.suptitle(f"change against {changes.baseline}, 95 % intervals{left}", x=0.01, ha="left", fontsize=10)
    panels = subfigure.subplots(1, len(changes.metrics), sharey=True, squeeze=False)[0]
    for panel, metric in zip(panels, changes.metrics, strict=True):
        for row, name in enumerate(names):
            change = changes.values[name].get(metric)
            if change is None:
                continue
            verdict = change.verdict(metric)
            colour = FOR if verdict > 0 else AGAINST if verdict < 0 else NEUTRAL
            if change.interval is not None:
                panel.plot(change.interval, [row, row], color=colour, linewidth=1.4)
            panel.plot([change.difference], [row], marker="o", markersize=4, color=colour)
        panel.axvline(0, color="black", linewidth=0.8)
        panel.set_title(words(metric), loc="left", fontsize=9)
        panel.set_yticks(range(len(names)), names, fontsize=8)
        panel.set_ylim(len(names) - 0.5, -0.5)
        panel.tick_params(axis="x", labelsize=8)
        panel.grid(axis="x", alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
