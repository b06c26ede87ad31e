"""The grid (prefix length × candidates) and the exponents along each axis, ours and the peers' on separate prompts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from benchmarks.contender import Contender, exponent, seconds_per_impression
from benchmarks.figures import figure, ratio, take_turns
from benchmarks.peer_prompts import SeparateModels, SeparatePrompts, stock_model
from benchmarks.slates_ours import FAST, OBJECTIVES, Point, point, training_step
from benchmarks.slates_processes import process_seconds
from benchmarks.workload import Sizes, Workload, build_workload, resized

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
    medians: Measured = {}
    for who, x in steps:
        medians.setdefault(who, {})[x] = float(np.median(seconds[f"{who} {x}"]))
    return medians


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
    medians: Measured = {}
    for who, sizes in batches.items():
        medians[who] = {
            count: process_seconds(who, ranges.backbone, sizes, count, rounds) for count in ranges.processes
        }
    return medians


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
    entries = []
    for who, points in AXES[axis](ranges, rounds).items():
        x, y = list(points), list(points.values())
        name = f"exponent_{axis}" if who == OURS else f"exponent_{axis}_{who}"
        shown: dict[str, Any] = {**where, "from": min(x), "to": max(x)}
        scale = 1 / ranges.sizes.slates
        if who == PEERS and axis != "candidates":
            shown["prompts"], scale = ranges.prompts, ranges.sizes.candidates / ranges.prompts
        entries.append(figure(name, exponent(x, y), f"slope of log(step time) against log({axis})", **shown))
        for value, seconds in points.items():
            label = f"curve_ms_{axis}_{who}_{value}"
            entries.append(figure(label, seconds * scale * 1e3, "ms per slate", curve=axis, who=who, x=value))
    return entries


def _at(point: Point, full: Workload, single: Workload, stock: nn.Module, rounds: int) -> list[dict[str, Any]]:
    impressions = point.sizes.slates * point.sizes.candidates
    tune = SeparatePrompts(point.backbone, point.separate(), model=stock)
    contenders = {
        "ours": Contender(training_step(resized(full, point.sizes)), impressions),
        "ours_one": Contender(training_step(resized(single, point.sizes), balancing=False), impressions),
        "separate_prompts": Contender(tune.step, point.prompts),
    }
    seconds = seconds_per_impression(contenders, rounds)
    end = f"{point.backbone}_P{point.sizes.prefix}_M{point.sizes.candidates}"
    where = point.circumstances()
    entries = []
    for under in ("ours", "ours_one"):
        times, unit = ratio(seconds, "separate_prompts", under), f"separate prompts / {under}, time per impression"
        entries.append(figure(f"grid_time_ratio_{under}_{end}", **times, unit=unit, **where))
    for name, values in seconds.items():
        milliseconds = float(np.median(values)) * 1e3
        entries.append(figure(f"grid_impression_ms_{name}_{end}", milliseconds, "ms per impression", **where))
    return entries


def grid_figures(
    backbones: Sequence[str], prefixes: Sequence[int], candidates: Sequence[int], length: int, rounds: int
) -> list[dict[str, Any]]:
    """Every point with one slate of ours in a step; backbones are built once, with random weights where 512 positions
    are too few (`minilm_long`)."""
    entries = []
    for backbone in backbones:
        smallest = Sizes(1, min(candidates), min(prefixes), length)
        full = build_workload(backbone, OBJECTIVES, smallest, way=FAST)
        single = build_workload(backbone, 1, smallest, way=FAST)
        stock = stock_model(backbone)
        for prefix in prefixes:
            for count in candidates:
                print(f"grid: {backbone}, {prefix} × {count} × {length}", flush=True)
                entries += _at(point(backbone, Sizes(1, count, prefix, length)), full, single, stock, rounds)
    return entries
