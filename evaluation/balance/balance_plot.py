"""One picture of a run's balancing: weights, norms, what steps do to objectives, and which pairs conflict where."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from equipoise.common.atomic import atomic_write
from equipoise.common.page.colours import AGAINST, SERIES
from equipoise.common.robust_range import robust_range
from equipoise.configs.load import read_run_config
from equipoise.evaluation.balance.diagnosis import (
    Diagnosis,
    History,
    PairDiagnosis,
    conclusions,
    diagnose,
    read_history,
    signed,
)

DASHES = ("-", "--", "-.", ":")
ABSENT = "#d9d9d9"
MOST_COLUMNS = 240
"""Columns of the strip; a longer run is averaged down to them."""


def draw(run: Path) -> Path:
    """Write `balance.png` into a run folder and return its path.

    Raises:
        UserError: the folder holds no run, or no balance records.
    """
    config = read_run_config(run)
    names = list(config.objectives.active())
    history = read_history(run)
    title = f"{config.name}: {config.balancing.method}, level {_level(config.balancing.level)}"
    figure = figure_of(history, diagnose(history, names), f"{title}, normalize {config.balancing.normalize}")
    path = run / "balance.png"
    with atomic_write(path) as partial:
        figure.savefig(partial, format="png", dpi=120)
    return path


def _level(level: Any) -> str:
    return level if isinstance(level, str) else f"last {level.layers} trunk layers"


def figure_of(history: History, diagnosis: Diagnosis, title: str) -> Figure:
    """The panels: three of lines above, below them one row per pair over the steps and, where probed, the layers."""
    pairs, layers = diagnosis.pairs, history.layers
    below = 0.9 + 0.25 * max(len(pairs), 3) if pairs else 0.0
    figure = Figure(figsize=(14, 4.1 + below), layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08))
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    rows = figure.subfigures(2 if pairs else 1, 1, height_ratios=[3.4, below] if pairs else None, squeeze=False)[:, 0]
    _lines(rows[0], history, diagnosis)
    if pairs:
        widths = [5, 1 + 0.35 * min(len(layers), 12)] if layers else [1]
        axes = rows[1].subplots(1, len(widths), sharey=True, squeeze=False, width_ratios=widths)[0]
        strip, by_layer = _strip(history, pairs), np.array([[p.layers.get(n, np.nan) for n in layers] for p in pairs])
        limit = _limit([strip, by_layer])
        _draw_strip(axes[0], history, pairs, strip, limit)
        if layers:
            _draw_layers(axes[1], layers, by_layer, limit)
        bar = rows[1].colorbar(
            axes[0].collections[0], ax=list(axes), pad=0.01, aspect=1.2 * max(len(pairs), 3), ticks=[-limit, 0, limit]
        )
        bar.set_label("cosine")
    figure.supxlabel(textwrap.fill(" ".join(conclusions(diagnosis)), 190), x=0.01, ha="left", fontsize=10)
    return figure


def _lines(subfigure: Any, history: History, diagnosis: Diagnosis) -> None:
    axes = subfigure.subplots(1, 3)
    for row, objective in enumerate(diagnosis.objectives):
        style: dict[str, Any] = {
            "color": SERIES[row % len(SERIES)],
            "linestyle": DASHES[row // len(SERIES) % len(DASHES)],
            "label": objective.name,
        }
        for axis, kind in zip(axes, ("weight", "norm", "along"), strict=True):
            _line(axis, history, history.series(f"balance/{kind}/{objective.name}"), style)
    weights = np.abs([objective.weight for objective in diagnosis.objectives])
    held = weights[weights > 0]
    if len(held) and held.max() > 30 * held.min():
        axes[0].set_yscale("symlog", linthresh=float(held.min()))
    _leave_outliers(axes[0])
    axes[0].set_title("weights α on the raw gradients", loc="left", fontsize=10)
    axes[1].set_yscale("log", nonpositive="mask")
    _leave_outliers(axes[1], logarithmic=True)
    axes[1].set_title("gradient norms ‖g‖", loc="left", fontsize=10)
    axes[2].set_title("what the step does: cosine of g and Σ α g", loc="left", fontsize=10)
    axes[2].axhspan(-1.05, 0, color=AGAINST, alpha=0.07, linewidth=0)
    axes[2].axhline(0, color="black", linewidth=0.8)
    drawn = np.concatenate([np.asarray(line.get_ydata(), dtype=np.float64) for line in axes[2].lines])
    axes[2].set_ylim(max(-1.05, min(1.15 * float(np.nanmin(drawn)), -0.12)), 1.05)
    axes[2].text(0.01, 0.01, "below 0: against the objective", transform=axes[2].transAxes, fontsize=8, color="#a04000")
    for axis in axes:
        _tidy(axis)
        axis.set_xlabel("step")
        axis.set_xlim(*_ends(history))
    handles, labels = axes[0].get_legend_handles_labels()
    held_by_line = dict(zip(labels, handles, strict=True))
    subfigure.legend(
        held_by_line.values(), held_by_line.keys(), loc="outside upper left", ncols=8, frameon=False, handlelength=2.5
    )


def _leave_outliers(axis: Axes, logarithmic: bool = False) -> None:
    """Show the robust range of all lines of a panel, and say how many records lie outside."""
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=np.float64) for line in axis.lines[::2]])
    values = values[np.isfinite(values) & (values > 0 if logarithmic else True)]
    if not len(values):
        return
    low, high = robust_range(np.log10(values) if logarithmic else values)
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    ends = (low - room, high + room)
    low, high = (10 ** ends[0], 10 ** ends[1]) if logarithmic else ends
    axis.set_ylim(low, high)
    outside = int(((values < low) | (values > high)).sum())
    if outside:
        words = f"outside: {outside} of {len(values)} records, {values.min():.3g} to {values.max():.3g}"
        axis.text(0.99, 0.98, words, transform=axis.transAxes, fontsize=8, color="#5d6a66", ha="right", va="top")


def _line(axis: Axes, history: History, values: np.ndarray, style: dict[str, Any]) -> None:
    """The records thin, their running mean thick."""
    marker = "o" if len(values) < 8 else None  # so that a record or two can be seen
    axis.plot(history.last, values, **style | {"alpha": 0.25, "linewidth": 0.8, "label": None})
    axis.plot(
        history.last,
        history.running_mean(values),
        **style,
        linewidth=1.8,
        marker=marker,
        markersize=4,
        clip_on=marker is None,
    )


def _strip(history: History, pairs: Sequence[PairDiagnosis]) -> np.ndarray:
    """Cosines, (pairs, columns), a long run averaged down."""
    groups = _groups(history)
    series = [history.series(f"balance/cosine/{pair.first}-{pair.second}") for pair in pairs]
    return np.array([[_mean(values[group]) for group in groups] for values in series])


def _groups(history: History) -> list[np.ndarray]:
    rows = np.arange(len(history.last))
    return np.array_split(rows, min(len(rows), MOST_COLUMNS))


def _mean(values: np.ndarray) -> float:
    held = values[np.isfinite(values)]
    return float(held.mean()) if len(held) else float("nan")


def _limit(parts: Sequence[np.ndarray]) -> float:
    """The end of the colour scale: the next of a few round numbers above nearly all cosines."""
    sizes = np.abs(np.concatenate([part.ravel() for part in parts]))
    largest = np.percentile(sizes[np.isfinite(sizes)], 98) if np.isfinite(sizes).any() else 1.0
    return next((limit for limit in (0.02, 0.05, 0.1, 0.2, 0.5) if largest <= limit), 1.0)


def _draw_strip(axis: Axes, history: History, pairs: Sequence[PairDiagnosis], strip: np.ndarray, limit: float) -> None:
    groups = _groups(history)
    edges = np.concatenate([[history.first[0] - 1], [history.last[group[-1]] for group in groups]])
    axis.set_facecolor(ABSENT)
    axis.pcolormesh(edges, np.arange(len(pairs) + 1), np.ma.masked_invalid(strip), cmap="RdBu", vmin=-limit, vmax=limit)
    for row, pair in enumerate(pairs):
        if pair.conflicting:
            assert pair.since is not None
            start = pair.since - 1
            axis.plot([start, history.last[-1]], [row + 0.94] * 2, color="black", linewidth=1.6, solid_capstyle="butt")
            axis.plot([start], [row + 0.5], marker=">", color="black", markersize=6, clip_on=False, zorder=5)
    axis.set_yticks(
        np.arange(len(pairs)) + 0.5, [f"{p.first} – {p.second}  {signed(p.late)}" for p in pairs], fontsize=9
    )
    for label, pair in zip(axis.get_yticklabels(), pairs, strict=True):
        label.set_fontweight("bold" if pair.conflicting else "normal")
    axis.set_ylim(len(pairs), 0)
    axis.set_xlim(*_ends(history))
    axis.set_xlabel("step")
    axis.set_title(
        "cosines of pairs, mean of the last third (red: conflict; ▶ conflict since; grey: none)",
        loc="left",
        fontsize=10,
    )
    _bare(axis)
    axis.tick_params(axis="y", pad=9)


def _draw_layers(axis: Axes, layers: Sequence[int], cosines: np.ndarray, limit: float) -> None:
    axis.set_facecolor(ABSENT)
    edges = np.arange(len(layers) + 1)
    axis.pcolormesh(
        edges, np.arange(len(cosines) + 1), np.ma.masked_invalid(cosines), cmap="RdBu", vmin=-limit, vmax=limit
    )
    for row, values in enumerate(cosines):
        if np.isfinite(values).any() and np.nanmin(values) < 0:
            axis.text(np.nanargmin(values) + 0.5, row + 0.52, "●", ha="center", va="center", fontsize=7)
    every = -(-len(layers) // 12)
    axis.set_xticks(edges[:-1][::every] + 0.5, [str(layer) for layer in layers][::every])
    axis.set_xlabel("trunk layer")
    axis.set_title("by layer (● lowest)", loc="left", fontsize=10)
    _bare(axis)


def _ends(history: History) -> tuple[float, float]:
    return float(history.first[0] - 1), float(history.last[-1])


def _tidy(axis: Axes) -> None:
    axis.grid(color="#e6e6e6", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _bare(axis: Axes) -> None:
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
