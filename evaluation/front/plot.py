"""The picture of a front: the first axis against each other one, with the line of their front and the chosen points."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from equipoise.common.atomic import atomic_write
from equipoise.common.page.colours import CHOICES, DOMINATED, FRONT
from equipoise.evaluation.front.axes import axis_title
from equipoise.evaluation.front.choice import Choice
from equipoise.evaluation.front.pareto import Front, front_mask
from equipoise.evaluation.front.points import Measurement

LINES = ("--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))
"""Of the methods of re-ranking, in their order."""
BLACK = "#000000"
STYLE = {
    "knee": ("*", 230, 9),
    "weights": ("D", 75, 9),
    "constraint": ("^", 100, -18),  # below, as it often lies close to the choice by weights
}
"""Way of choosing → marker, size, and how many points above it its name stands."""


def draw(path: Path, figure: Figure) -> None:
    """Write a picture as PNG, whole or not at all."""
    with atomic_write(path) as partial:
        figure.savefig(partial, format="png", dpi=120)


def figure_of(
    measurement: Measurement,
    front: Front,
    choices: Mapping[str, Choice],
    title: str,
    cutoff: int,
    baselines: Mapping[str, np.ndarray] | None = None,
) -> Figure:
    """One panel per axis of the front but the first, which is every panel's height.

    Args:
        measurement: all trade-offs.
        front: the front of some of its axes.
        choices: the chosen points by way of choosing.
        title: above all panels.
        cutoff: the k of the axes.
        baselines: methods of re-ranking, and the values of their points on the axes of the front, float64 (P, A).
    """
    relevance, *others = front.axes
    figure = Figure(figsize=(max(5.4 * len(others), 7.5), 5.6 + 0.25 * len(choices)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    panels = figure.subplots(1, len(others), sharey=True, squeeze=False)[0]
    for panel, axis in zip(panels, others, strict=True):
        _panel(panel, measurement, front, choices, (axis, relevance))
        for style, (name, values) in zip(LINES, (baselines or {}).items(), strict=False):
            pairs = values[:, [front.axes.index(axis), 0]]
            _front_line(panel, pairs, color="#404040", linewidth=1.0, linestyle=style, label=name)
        panel.set_xlabel(f"{axis_title(axis)}@{cutoff}")
    panels[0].set_ylabel(f"{axis_title(relevance)}@{cutoff}")
    handles, labels = panels[0].get_legend_handles_labels()
    legend = dict(zip(labels, handles, strict=True))
    if measurement.samples.shape[2]:
        legend["95 % of the difference to pure relevance"] = Line2D([], [], color="#707070", linewidth=1.2)
    figure.legend(legend.values(), legend.keys(), loc="outside lower left", ncols=2, frameon=False, fontsize=9)
    return figure


def _panel(
    panel: Axes, measurement: Measurement, front: Front, choices: Mapping[str, Choice], axes: tuple[str, str]
) -> None:
    x, y = measurement.of(axes).T
    mask, shown = front.mask, front.mask.copy()
    shown[[0, *(choice.point for choice in choices.values())]] = True
    outside = _show(panel, np.stack([x, y], axis=1), shown)
    panel.scatter(x[~mask], y[~mask], s=14, color=DOMINATED, linewidths=0, label="dominated")
    if outside:
        words = f"dominated points outside: {outside}"
        panel.text(0.01, 0.01, words, transform=panel.transAxes, fontsize=8, color="#707070")
    label = f"on the front of {', '.join(axis_title(axis) for axis in front.axes)}"
    panel.scatter(x[mask], y[mask], s=22, facecolors="none", edgecolors=FRONT, linewidths=0.9, label=label)
    _front_line(panel, np.stack([x, y], axis=1), color=FRONT, linewidth=1.4, label="front of the two axes")
    panel.scatter(x[:1], y[:1], s=70, marker="s", color=BLACK, zorder=4, label="pure relevance")
    for rule, choice in choices.items():
        colour, (marker, size, above) = CHOICES[rule], STYLE[rule]
        position = (x[choice.point], y[choice.point])
        _error_bars(panel, measurement, choice.point, axes, position, colour)
        words = "\n    ".join(textwrap.wrap(f"{rule}: {measurement.points[choice.point].words()}", 70))
        panel.scatter(*position, s=size, marker=marker, color=colour, edgecolors="white", zorder=5, label=words)
        right = position[0] > np.mean(panel.get_xlim())
        panel.annotate(
            rule,
            position,
            (-9 if right else 9, above),
            textcoords="offset points",
            ha="right" if right else "left",
            color=colour,
            fontsize=10,
            fontweight="bold",
        )
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)


def _front_line(panel: Axes, points: np.ndarray, **style: Any) -> None:
    """The front of points (P, 2) as steps."""
    line = points[front_mask(points)]
    panel.step(*line[np.argsort(line[:, 0], kind="stable")].T, where="pre", **style)


def _show(panel: Axes, values: np.ndarray, shown: np.ndarray) -> int:
    """Set the limits to the points that matter, with room for labels; returns how many of the others lie outside.

    Args:
        panel: of two axes.
        values: of all points, float64 (P, 2).
        shown: which points must be seen, bool (P,).
    """
    low, high = values[shown].min(axis=0), values[shown].max(axis=0)
    room = np.where(high > low, high - low, 0.01)
    low, high = low - 0.08 * room, high + 0.12 * room
    panel.set_xlim(low[0], high[0])
    panel.set_ylim(low[1], high[1])
    return int(((values < low) | (values > high)).any(axis=1).sum())


def _error_bars(
    panel: Axes, measurement: Measurement, point: int, axes: Sequence[str], position: tuple[float, float], colour: str
) -> None:
    """The bootstrap intervals of the difference to pure relevance, about the point: what could be another value."""
    for axis, value, other, vertical in (
        (axes[0], position[0], position[1], False),
        (axes[1], position[1], position[0], True),
    ):
        low, high = measurement.interval(point, axis, against=0)
        plain = measurement.of([axis])[0, 0]
        ends = (plain + low, plain + high)
        if point and np.isfinite(ends).all() and ends[0] <= value <= ends[1]:
            xy = ([other, other], ends) if vertical else (ends, [other, other])
            panel.plot(*xy, color=colour, linewidth=1.2, alpha=0.65, zorder=3)
