"""The picture of `benchmarks.slates`: time per slate against candidates, prefix length, objectives and processes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from equipoise.common.atomic import atomic_write

TITLES = {
    "candidates": "candidates per slate",
    "prefix": "tokens of the prefix",
    "objectives": "objectives",
    "processes": "processes (the same work each)",
}
SHOWN = {"ours": ("ours", "#0072B2", "o"), "separate_prompts": ("separate prompts", "#D55E00", "s")}
"""Who → label, colour (told apart by colour-blind readers too: Okabe & Ito), mark."""


def _panel(axes: Axes, axis: str, figures: Sequence[Mapping[str, Any]], exponents: Mapping[str, float]) -> None:
    ticks: set[int] = set()
    for who, (label, colour, mark) in SHOWN.items():
        points = sorted((f["x"], f["value"]) for f in figures if f.get("curve") == axis and f["who"] == who)
        if not points:
            continue
        x, milliseconds = zip(*points, strict=True)
        ticks |= set(x)
        slope = exponents[f"exponent_{axis}" if who == "ours" else f"exponent_{axis}_{who}"]
        text = f"{label}: exponent {slope:.2f}".replace("-", "−")
        axes.plot(x, milliseconds, color=colour, marker=mark, markersize=5, linewidth=1.5, label=text)
    axes.set(xscale="log", yscale="log", xlabel=TITLES[axis], ylabel="ms per slate")
    axes.xaxis.set_major_locator(FixedLocator(sorted(ticks)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    low, high = axes.get_ylim()
    axes.set_ylim(low / 1.3, high * 2)  # room for the legend
    axes.grid(color="#dddddd", linewidth=0.5)
    axes.legend(frameon=False, fontsize=8, loc="upper left")


def draw(path: Path, figures: Sequence[Mapping[str, Any]]) -> None:
    """Write the picture of the measured curves, a panel for each axis.

    Raises:
        ValueError: the figures hold no curve.
    """
    measured = [axis for axis in TITLES if any(entry.get("curve") == axis for entry in figures)]
    if not measured:
        raise ValueError("no curve was measured: add curves to the parts")
    exponents = {entry["name"]: entry["value"] for entry in figures if entry["name"].startswith("exponent_")}
    columns = min(2, len(measured))
    rows = -(-len(measured) // columns)
    picture, panels = plt.subplots(rows, columns, figsize=(4.2 * columns, 3.2 * rows), squeeze=False)
    for panel in panels.flat[len(measured) :]:
        panel.set_visible(False)
    for panel, axis in zip(panels.flat, measured, strict=False):
        _panel(panel, axis, figures, exponents)
    picture.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        picture.savefig(partial, format="png", dpi=130)
    plt.close(picture)
