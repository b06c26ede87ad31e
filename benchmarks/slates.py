"""Our packed slates against what one would do otherwise: separate prompts, a model per objective, LibMTL.

    python -m benchmarks.slates [--quick] [--parts steps,memory,…] --json FILE [--picture FILE.png]

Ours trains four balanced objectives on slates (benchmarks.slates_ours). The peers train on one prompt per user-item
pair: `separate_prompts` one objective with Trainer and PEFT (benchmarks.peer_prompts), `separate_models` four such
models in turn, `libmtl` a shared trunk with four towers. LibMTL is measured where it is installed:
`pip install --no-deps LibMTL==1.1.5`. Time ratios are the peer's time per impression over ours.

Names end in the backbone; without that end they are the headline: 256 tokens of prefix, 20 candidates of 16 tokens,
pretrained MiniLM with 4 of its 6 layers in the trunk. Grid and curves reach to 1,024 tokens of prefix, for which MiniLM
has too few positions: there `minilm_long` is its shape with random weights. Where a peer's whole step would take too
long it gets fewer prompts (`prompts`), for its time is linear in their number. `--quick` takes less than five minutes
on two cores that do nothing else; times taken on a busy machine mean little.
"""

import argparse
import importlib
import importlib.util
import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers.utils import logging as transformers_logging

from benchmarks.figures import figure, report, show, write
from benchmarks.peers import has_libmtl
from benchmarks.slates_agreement import agreement_figures
from benchmarks.slates_curves import AXES, Ranges, curve_figures, grid_figures
from benchmarks.slates_gpu import gpu_figures, way_figures
from benchmarks.slates_memory import memory_figures, padding_share
from benchmarks.slates_ours import Point, point
from benchmarks.slates_picture import draw
from benchmarks.slates_scoring import scoring_figures
from benchmarks.slates_steps import RATIOS, steps_at
from benchmarks.workload import Sizes
from equipoise.configs.load import load_config

DEMO = Path(__file__).parent.parent / "configs" / "demo.yaml"
OF_HEADLINE = (*RATIOS, "memory_ratio_libmtl", "scoring_ratio_separate_prompts", "scoring_one_ratio_separate_prompts")
"""Figures of one backbone that the headline repeats without its name."""
IN_FILE_ALONE = ("grid_", "curve_", "impression_ms_")
"""How the names of figures begin that the terminal does not show."""


@dataclass(frozen=True)
class Grid:
    """Every backbone at every prefix length and number of candidates of `length` tokens."""

    backbones: tuple[str, ...]
    prefixes: tuple[int, ...]
    candidates: tuple[int, ...]
    length: int


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        points: where all variants and peers take turns; the first is the headline.
        scoring: what is scored at once, on the headline's backbone.
        agreement: the slates that are compared with single candidates, on the headline's backbone.
        memory: the slates whose memory is measured, on the headline's backbone.
        grid: the points at which ours meets the first peer.
        curves: the axes of the exponents.
        gpu: points that are measured where there is a GPU.
        rounds: turns at the points and in scoring; `few` in grid and curves.
    """

    points: tuple[Point, ...]
    scoring: Point
    agreement: Sizes
    memory: Sizes
    grid: Grid
    curves: Ranges
    gpu: tuple[Point, ...]
    rounds: int
    few: int


HEADLINE = Sizes(2, 20, 256, 16)
ONE_SLATE = Sizes(1, 20, 256, 16)
LARGE = (Point("llama1b", Sizes(8, 20, 256, 16), 32), Point("llama8b", Sizes(4, 20, 256, 16), 16))
FEW_AND_MANY = (Sizes(4, 20, 256, 16), Sizes(16, 20, 256, 16))
"""What of a step is the host's, what the GPU's."""
WHOLE = Plan(
    points=(Point("minilm", HEADLINE, 40), Point("llama100m", ONE_SLATE, 4)),
    scoring=Point("minilm", Sizes(8, 20, 256, 16), 40),
    agreement=ONE_SLATE,
    memory=ONE_SLATE,
    grid=Grid(("minilm_long", "llama100m"), (64, 256, 1024), (5, 20, 50), 16),
    curves=Ranges("minilm_long", ONE_SLATE, 4, (5, 10, 20, 50), (64, 128, 256, 512, 1024), (1, 2, 4, 8), (1, 2)),
    gpu=LARGE,
    rounds=5,
    few=3,
)
QUICK = Plan(
    points=(Point("minilm", ONE_SLATE, 2), Point("llama100m", Sizes(1, 5, 64, 16), 2)),
    scoring=Point("minilm", Sizes(4, 20, 256, 16), 20),
    agreement=Sizes(1, 4, 64, 16),
    memory=Sizes(1, 20, 256, 16),
    grid=Grid(("minilm_long",), (64, 256), (5, 20), 16),
    curves=Ranges("minilm_long", Sizes(1, 10, 128, 16), 2, (5, 10, 20), (64, 128, 256), (1, 2, 4), (1, 2)),
    gpu=LARGE[:1],
    rounds=3,
    few=1,
)
TINY = Plan(
    points=(point("tiny", Sizes(1, 3, 9, 4)),),
    scoring=point("tiny", Sizes(2, 3, 9, 4)),
    agreement=Sizes(2, 3, 9, 4),
    memory=Sizes(1, 3, 9, 4),
    grid=Grid(("tiny",), (8, 16), (2,), 4),
    curves=Ranges("tiny", Sizes(1, 3, 9, 4), 2, (2, 4), (8, 16), (1, 2), (1, 2)),
    gpu=(),
    rounds=2,
    few=1,
)
"""For the tests."""


def _steps(plan: Plan) -> list[dict[str, Any]]:
    entries = []
    for at in plan.points:
        print(f"steps: {at.backbone}", flush=True)
        entries += steps_at(at, plan.rounds)
    return entries


def _grid(plan: Plan) -> list[dict[str, Any]]:
    return grid_figures(plan.grid.backbones, plan.grid.prefixes, plan.grid.candidates, plan.grid.length, plan.few)


def _curves(plan: Plan) -> list[dict[str, Any]]:
    return [entry for axis in AXES for entry in curve_figures(axis, plan.curves, plan.few)]


def _padding(plan: Plan) -> list[dict[str, Any]]:
    config = load_config(DEMO)
    if not config.data.folder.exists():
        return []
    shares = padding_share(config)
    unit, data = "of the token places that linear layers compute", str(config.data.folder)
    rows = figure("padding_share_rows", shares["rows"], "of the token places of rows under a mask", data=data)
    return [figure("padding_share", shares["linear"], unit, data=data), rows]


def _estimate(plan: Plan) -> list[dict[str, Any]]:
    if not has_estimate():
        return []
    return importlib.import_module("benchmarks.estimate").estimate_figures(plan is not WHOLE)


def has_estimate() -> bool:
    """Whether this tree can predict the time and memory of a run."""
    return importlib.util.find_spec("benchmarks.estimate") is not None


def _gpu(plan: Plan) -> list[dict[str, Any]]:
    if not torch.cuda.is_available():
        return []
    ways = way_figures(plan.gpu[0].backbone, FEW_AND_MANY, plan.rounds)
    return ways + [entry for at in plan.gpu for entry in gpu_figures(at, plan.rounds)]


PARTS: dict[str, Callable[[Plan], list[dict[str, Any]]]] = {
    "agreement": lambda plan: agreement_figures(plan.points[0].backbone, plan.agreement),
    "steps": _steps,
    "scoring": lambda plan: scoring_figures(plan.scoring, plan.rounds),
    "memory": lambda plan: memory_figures(plan.points[0].backbone, plan.memory),
    "grid": _grid,
    "curves": _curves,
    "padding": _padding,
    "estimate": _estimate,
    "gpu": _gpu,
}


def headline(figures: Sequence[dict[str, Any]], backbone: str) -> list[dict[str, Any]]:
    """The figures of OF_HEADLINE, those of the headline's backbone without its name at the end."""
    wanted = {f"{name}_{backbone}": name for name in OF_HEADLINE}
    return [{**entry, "name": wanted[entry["name"]]} for entry in figures if entry["name"] in wanted]


def notes(parts: Sequence[str]) -> list[str]:
    """What was asked for and cannot be measured here, and why."""
    lines = []
    if not has_libmtl() and {"steps", "memory"} & set(parts):
        lines.append("libmtl is not installed, so nothing is compared with it: pip install --no-deps LibMTL==1.1.5")
    if "padding" in parts and not load_config(DEMO).data.folder.exists():
        lines.append("padding_share: the demo's data is not prepared: equipoise prepare configs/demo.yaml")
    if "estimate" in parts and not has_estimate():
        lines.append("estimate_error: this tree has no benchmarks.estimate")
    if "gpu" in parts and not torch.cuda.is_available():
        lines.append("gpu: no GPU")
    return lines


def measure(plan: Plan, parts: Sequence[str]) -> list[dict[str, Any]]:
    """All figures of the named parts, the headline first."""
    entries: list[dict[str, Any]] = []
    for part in parts:
        print(f"{part} …", flush=True)
        started = time.perf_counter()
        entries += PARTS[part](plan)
        print(f"{part}: {time.perf_counter() - started:.0f} s", flush=True)
    return headline(entries, plan.points[0].backbone) + entries


def _parts(text: str) -> list[str]:
    parts = text.split(",")
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"'{unknown[0]}' is no part: choose from {', '.join(PARTS)}")
    return parts


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Packed slates against separate prompts, separate models and LibMTL.")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--picture", type=Path, help="where the curves are drawn, a PNG")
    parser.add_argument("--quick", action="store_true", help="less than five minutes on two cores")
    parser.add_argument("--parts", type=_parts, default=list(PARTS), help=f"of {','.join(PARTS)}; default: all")
    asked = parser.parse_args()
    if asked.picture and "curves" not in asked.parts:
        parser.error("--picture draws the curves: add curves to --parts")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")  # Trainer's, of its own library
    plan = QUICK if asked.quick else WHOLE
    figures = measure(plan, asked.parts)
    missing = notes(asked.parts)
    write(asked.json, report("slates", figures, quick=asked.quick, parts=asked.parts, notes=missing))
    if asked.picture:
        draw(asked.picture, figures)
    kept = [entry for entry in figures if not entry["name"].startswith(IN_FILE_ALONE)]
    show("Slates (the file also has the grid, the curves' points and times per impression)", kept)
    for note in missing:
        print(note)


if __name__ == "__main__":
    main()
