"""The grid: prefix length × candidates, our four objectives and one against one objective on separate prompts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from benchmarks.contender import Contender, seconds_per_impression
from benchmarks.figures import figure, ratio
from benchmarks.peer_prompts import SeparatePrompts, stock_model
from benchmarks.slates_ours import FAST, OBJECTIVES, training_step
from benchmarks.slates_point import Point, point
from benchmarks.workload import Sizes, Workload, build_workload, resized


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
    found = []
    for under in ("ours", "ours_one"):
        times, unit = ratio(seconds, "separate_prompts", under), f"separate prompts / {under}, time per impression"
        found.append(figure(f"grid_time_ratio_{under}_{end}", **times, unit=unit, **where))
    for name, values in seconds.items():
        milliseconds = float(np.median(values)) * 1e3
        found.append(figure(f"grid_impression_ms_{name}_{end}", milliseconds, "ms per impression", **where))
    return found


def grid_figures(
    backbones: Sequence[str], prefixes: Sequence[int], candidates: Sequence[int], length: int, rounds: int
) -> list[dict[str, Any]]:
    """Every point with one slate of ours in a step; backbones are built once, with random weights where 512 positions
    are too few (`minilm_long`)."""
    found = []
    for backbone in backbones:
        smallest = Sizes(1, min(candidates), min(prefixes), length)
        full = build_workload(backbone, OBJECTIVES, smallest, way=FAST)
        single = build_workload(backbone, 1, smallest, way=FAST)
        stock = stock_model(backbone)
        for prefix in prefixes:
            for count in candidates:
                print(f"grid: {backbone}, {prefix} × {count} × {length}", flush=True)
                found += _at(point(backbone, Sizes(1, count, prefix, length)), full, single, stock, rounds)
    return found
