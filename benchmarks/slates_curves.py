"""How a step's time grows with candidates, prefix length, objectives and processes: curves and their exponents.

Ours is a slate with four balanced objectives. The peer treats the same user-item pairs as separate prompts: one
objective against candidates and prefix length (as many prompts as candidates on the first, a fixed number on the
second), a model per objective against objectives.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.exponent import exponent
from benchmarks.figures import figure, take_turns
from benchmarks.peer_models import SeparateModels
from benchmarks.peer_prompts import SeparatePrompts, stock_model
from benchmarks.slates_ours import FAST, OBJECTIVES, training_step
from benchmarks.slates_processes import process_seconds
from benchmarks.workload import Sizes, build_workload, resized

OURS, PEERS = "ours", "separate_prompts"
Measured = dict[str, dict[int, float]]
"""Who → x → median seconds of a step."""


@dataclass(frozen=True)
class Ranges:
    """What is measured: the backbone, a slate to start from, how many prompts the peer gets where their number does not
    matter, and the values of each axis."""

    backbone: str
    sizes: Sizes
    prompts: int
    candidates: Sequence[int]
    prefix: Sequence[int]
    objectives: Sequence[int]
    processes: Sequence[int]


def _medians(steps: Mapping[tuple[str, int], Callable[[], object]], rounds: int) -> Measured:
    seconds = take_turns({f"{who} {x}": step for (who, x), step in steps.items()}, rounds)
    found: Measured = {}
    for who, x in steps:
        found.setdefault(who, {})[x] = float(np.median(seconds[f"{who} {x}"]))
    return found


def _along(ranges: Ranges, slates: Mapping[int, Sizes], prompts: Mapping[int, Sizes], rounds: int) -> Measured:
    """Ours on slates and the peer on prompts, by x. All our points share a model; so do the peer's."""
    full = build_workload(ranges.backbone, OBJECTIVES, ranges.sizes, way=FAST)
    stock = stock_model(ranges.backbone)
    steps: dict[tuple[str, int], Callable[[], object]] = {}
    for x, sizes in slates.items():
        steps[OURS, x] = training_step(resized(full, sizes))
    for x, sizes in prompts.items():
        steps[PEERS, x] = SeparatePrompts(ranges.backbone, sizes, model=stock).step
    return _medians(steps, rounds)


def _against_candidates(ranges: Ranges, rounds: int) -> Measured:
    prefix, length = ranges.sizes.prefix, ranges.sizes.length
    slates = {count: Sizes(ranges.sizes.slates, count, prefix, length) for count in ranges.candidates}
    prompts = {count: Sizes(ranges.sizes.slates * count, 1, prefix, length) for count in ranges.candidates}
    return _along(ranges, slates, prompts, rounds)


def _against_prefix(ranges: Ranges, rounds: int) -> Measured:
    slate = ranges.sizes
    slates = {prefix: Sizes(slate.slates, slate.candidates, prefix, slate.length) for prefix in ranges.prefix}
    prompts = {prefix: Sizes(ranges.prompts, 1, prefix, slate.length) for prefix in ranges.prefix}
    return _along(ranges, slates, prompts, rounds)


def _against_objectives(ranges: Ranges, rounds: int) -> Measured:
    alone = Sizes(ranges.prompts, 1, ranges.sizes.prefix, ranges.sizes.length)
    steps: dict[tuple[str, int], Callable[[], object]] = {}
    for count in ranges.objectives:
        workload = build_workload(ranges.backbone, count, ranges.sizes, way=FAST)
        steps[OURS, count] = training_step(workload, balancing=count > 1)
        steps[PEERS, count] = SeparateModels(ranges.backbone, count, alone).step
    return _medians(steps, rounds)


def _against_processes(ranges: Ranges, rounds: int) -> Measured:
    alone = Sizes(ranges.prompts, 1, ranges.sizes.prefix, ranges.sizes.length)
    batches = {OURS: ranges.sizes, PEERS: alone}
    found: Measured = {}
    for who, sizes in batches.items():
        found[who] = {count: process_seconds(who, ranges.backbone, sizes, count, rounds) for count in ranges.processes}
    return found


AXES: dict[str, Callable[[Ranges, int], Measured]] = {
    "candidates": _against_candidates,
    "prefix": _against_prefix,
    "objectives": _against_objectives,
    "processes": _against_processes,
}
"""What grows → its measurement."""


def curve_figures(axis: str, ranges: Ranges, rounds: int) -> list[dict[str, Any]]:
    """The exponents of one axis, ours and the peer's, and the points behind them (with `curve`, `who` and `x`).

    Points are times per slate: a peer that got fewer prompts than a slate has candidates is scaled up, for its time is
    linear in their number; exponents do not depend on it.
    """
    print(f"curves: {axis}", flush=True)
    where: dict[str, Any] = {"backbone": ranges.backbone, **vars(ranges.sizes)}
    where.pop(axis, None)
    found = []
    for who, points in AXES[axis](ranges, rounds).items():
        x, y = list(points), list(points.values())
        name = f"exponent_{axis}" if who == OURS else f"exponent_{axis}_{who}"
        shown: dict[str, Any] = {**where, "from": min(x), "to": max(x)}
        scale = 1 / ranges.sizes.slates
        if who == PEERS and axis != "candidates":
            shown["prompts"], scale = ranges.prompts, ranges.sizes.candidates / ranges.prompts
        found.append(figure(name, exponent(x, y), f"slope of log(step time) against log({axis})", **shown))
        for value, seconds in points.items():
            label = f"curve_ms_{axis}_{who}_{value}"
            found.append(figure(label, seconds * scale * 1e3, "ms per slate", curve=axis, who=who, x=value))
    return found
