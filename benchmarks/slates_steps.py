"""A training step at one point of the grid: ours, ours without each idea, and the three peers, taking turns."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.contender import Contender, seconds_per_impression
from benchmarks.figures import figure, ratio
from benchmarks.peer_prompts import SeparateModels, SeparatePrompts
from benchmarks.peers import has_libmtl
from benchmarks.slates_ours import OBJECTIVES, WITHOUT, Point, libmtl_step, ours

RATIOS = {
    "time_ratio_separate_prompts": ("separate_prompts", "ours"),
    "time_ratio_separate_models": ("separate_models", "ours"),
    "time_ratio_libmtl": ("libmtl", "ours"),
    "four_objectives_over_one": ("ours", "ours_one"),
    "one_objective_time_ratio_separate_prompts": ("separate_prompts", "ours_one"),
    "comparison_over_step": ("with_comparison", "ours"),
}
"""The figures about steps: whose time per impression over whose."""


def peers(point: Point) -> dict[str, Contender]:
    """The peers that can run here: one objective on separate prompts, four such models, LibMTL's way."""
    sizes, count = point.separate(), point.prompts
    contenders = {
        "separate_prompts": Contender(SeparatePrompts(point.backbone, sizes).step, count),
        "separate_models": Contender(SeparateModels(point.backbone, OBJECTIVES, sizes).step, count),
    }
    if has_libmtl():
        contenders["libmtl"] = Contender(libmtl_step(point.backbone, OBJECTIVES, sizes), count)
    return contenders


def time_steps(point: Point, rounds: int) -> tuple[dict[str, Contender], dict[str, np.ndarray]]:
    """All contenders at a point, and their seconds per impression, (rounds,) each."""
    contenders = {**ours(point.backbone, point.sizes, point.prompts), **peers(point)}
    return contenders, seconds_per_impression(contenders, rounds)


def step_figures(
    point: Point, contenders: Mapping[str, Contender], seconds: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    """Ratios to the peers, the time of each variant, and what each idea is worth; names end in the backbone's."""
    where, end = point.circumstances(), f"_{point.backbone}"
    entries = [
        figure(f"{name}{end}", **ratio(seconds, over, under), unit=f"{over} / {under}, time per impression", **where)
        for name, (over, under) in RATIOS.items()
        if over in seconds
    ]
    for idea, instead in WITHOUT.items():
        worth = ratio(seconds, f"without_{idea}", "ours")
        entries.append(figure(f"share_{idea}{end}", **worth, unit="without it / ours", instead=instead, **where))
    for name, values in seconds.items():
        seconds_each, count = float(np.median(values)), contenders[name].impressions
        entries.append(figure(f"step_ms_{name}{end}", seconds_each * count * 1e3, "ms", impressions=count, **where))
        entries.append(figure(f"impression_ms_{name}{end}", seconds_each * 1e3, "ms per impression", **where))
    return entries


def steps_at(point: Point, rounds: int) -> list[dict[str, Any]]:
    """Measure one point."""
    return step_figures(point, *time_steps(point, rounds))
