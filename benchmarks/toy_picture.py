"""The picture of `benchmarks.toy`: each method's ways through the plane of the parameters and that of the losses."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.lines import Line2D

from benchmarks.toy_problem import STARTS, losses_and_gradients, pareto_set
from equipoise.common.atomic import atomic_write

COLUMNS = 7
COLOURS = ("#0072B2", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9")
"""One per start; told apart by colour-blind readers too (Okabe & Ito)."""
FRONT = "#111111"
EDGE = 11.0

Shown = tuple[str, np.ndarray, np.ndarray, np.ndarray]
"""Weighting, points (kept, starts, 2), losses of the same shape, distances to the front (starts,)."""


def _mean_loss(count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    side = np.linspace(-EDGE, EDGE, count)
    grid = np.stack(np.meshgrid(side, side), axis=-1)
    return side, losses_and_gradients(grid)[0].mean(-1)


def _ways(axes: Axes, paths: np.ndarray) -> None:
    for start, colour in enumerate(COLOURS[: paths.shape[1]]):
        path = paths[:, start]
        axes.plot(*path.T, color=colour, linewidth=1.2, zorder=3)
        axes.plot(*path[0], "o", color="white", markeredgecolor=colour, markersize=5, zorder=4)
        axes.plot(*path[-1], "*", color=colour, markeredgecolor="black", markeredgewidth=0.5, markersize=10, zorder=5)


def _parameters(axes: Axes, shown: Shown, levels: tuple[np.ndarray, np.ndarray], pareto: np.ndarray) -> None:
    method, points, _, distances = shown
    side, mean = levels
    heights = np.unique(np.quantile(mean, np.linspace(0, 1, 25)))  # as many in the flat upper half as in the bowl
    shades = BoundaryNorm(heights, plt.get_cmap("Greys_r").N)
    axes.contourf(side, side, mean, levels=heights, cmap="Greys_r", norm=shades, alpha=0.6, zorder=0)
    axes.contour(side, side, mean, levels=heights, colors="white", linewidths=0.5, linestyles="solid", zorder=1)
    axes.plot(*pareto.T, color=FRONT, linewidth=3, solid_capstyle="round", zorder=2)
    _ways(axes, points)
    axes.set(xlim=(-EDGE, EDGE), ylim=(-EDGE, EDGE), xticks=(-10, 0, 10), yticks=(-10, 0, 10), aspect="equal")
    axes.set_title(f"{method}\nfarthest from the front: {distances.max():.2g}", fontsize=10)


def _losses(axes: Axes, shown: Shown, front: np.ndarray) -> None:
    axes.plot(*front.T, color=FRONT, linewidth=3, solid_capstyle="round", zorder=2)
    _ways(axes, shown[2])
    axes.set(xlim=(-21.5, 16), ylim=(-21.5, 16), xticks=(-20, 0, 15), yticks=(-20, 0, 15), aspect="equal")
    axes.grid(color="#dddddd", linewidth=0.5)


def draw(path: Path, methods: Sequence[Shown]) -> None:
    """Write the picture: two rows of panels for every row of methods, parameters above losses."""
    pareto = pareto_set(201)
    front, levels = losses_and_gradients(pareto)[0], _mean_loss()
    columns = min(COLUMNS, len(methods))
    rows = -(-len(methods) // columns)
    figure, panels = plt.subplots(2 * rows, columns, figsize=(2.6 * columns, 5.3 * rows + 0.9), squeeze=False)
    for panel in panels.flat:
        panel.tick_params(labelsize=8)
        panel.set_visible(False)
    for index, shown in enumerate(methods):
        row, column = divmod(index, columns)
        above, below = panels[2 * row, column], panels[2 * row + 1, column]
        above.set_visible(True)
        below.set_visible(True)
        _parameters(above, shown, levels, pareto)
        _losses(below, shown, front)
        if column == 0:
            above.set_ylabel("x2", fontsize=9)
            below.set_ylabel("L2", fontsize=9)
        above.set_xlabel("x1", fontsize=9, labelpad=1)
        below.set_xlabel("L1", fontsize=9, labelpad=1)
    _legend(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        figure.savefig(partial, format="png", dpi=110)
    plt.close(figure)


def _legend(figure: plt.Figure) -> None:
    labels = [f"from ({x:g}, {y:g})".replace("-", "−") for x, y in STARTS]
    marks = [Line2D([], [], color=colour, label=label) for colour, label in zip(COLOURS, labels, strict=True)]
    marks.append(Line2D([], [], color=FRONT, linewidth=3, label="Pareto set / front"))
    marks.append(Line2D([], [], color="white", marker="o", markeredgecolor="black", label="start"))
    marks.append(Line2D([], [], color="white", marker="*", markersize=11, markeredgecolor="black", label="end"))
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.75 / figure.get_figheight()))
    figure.legend(handles=marks, ncol=4, loc="upper center", frameon=False, fontsize=10)
