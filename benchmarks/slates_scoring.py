"""Scoring without gradient: packed slates with all objectives against the stock model on separate prompts with one."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks.contender import Contender, seconds_per_impression
from benchmarks.figures import figure, ratio
from benchmarks.peer_prompts import SeparatePrompts
from benchmarks.slates_ours import FAST, OBJECTIVES, Point
from benchmarks.workload import Workload, build_workload
from equipoise.modeling.precision import computing, multiplies_in_bf16


def scoring(workload: Workload, precision: str = "fp32") -> Callable[[], dict[str, torch.Tensor]]:
    """Scores of the whole batch for all objectives, as `equipoise.train.scoring` computes them."""
    model = workload.model.eval()
    device = next(model.parameters()).device

    def score() -> dict[str, torch.Tensor]:
        with torch.inference_mode(), computing(precision, device):
            return model.score(workload.batch.model_inputs())

    return score


def scoring_figures(point: Point, rounds: int) -> list[dict[str, Any]]:
    """`scoring_ratio_separate_prompts`: over our scores of four objectives; `scoring_one_…`: over ours of one;
    `scoring_bf16_ratio`: float32 over bfloat16, both ours, where the CPU multiplies in it."""
    impressions, end = point.sizes.slates * point.sizes.candidates, f"_{point.backbone}"
    contenders = {
        "ours": Contender(scoring(build_workload(point.backbone, OBJECTIVES, point.sizes, way=FAST)), impressions),
        "ours_one": Contender(scoring(build_workload(point.backbone, 1, point.sizes, way=FAST)), impressions),
        "separate_prompts": Contender(SeparatePrompts(point.backbone, point.separate()).score, point.prompts),
    }
    has_bf16 = multiplies_in_bf16("cpu")
    if has_bf16:
        narrow = replace(FAST, dtype="bfloat16")
        workload = build_workload(point.backbone, OBJECTIVES, point.sizes, way=narrow)
        contenders["ours_bf16"] = Contender(scoring(workload, "bf16"), impressions)
    seconds = seconds_per_impression(contenders, rounds)
    where, unit = point.circumstances(), "time per impression, one objective on separate prompts / our"
    entries = [
        figure(
            f"scoring_ratio_separate_prompts{end}",
            **ratio(seconds, "separate_prompts", "ours"),
            unit=f"{unit} {OBJECTIVES}",
            **where,
        ),
        figure(
            f"scoring_one_ratio_separate_prompts{end}",
            **ratio(seconds, "separate_prompts", "ours_one"),
            unit=f"{unit} one",
            **where,
        ),
    ]
    if has_bf16:
        both = ratio(seconds, "ours", "ours_bf16")
        entries.append(figure(f"scoring_bf16_ratio{end}", **both, unit="float32 / bfloat16", **where))
    for name, values in seconds.items():
        milliseconds = float(np.median(values)) * 1e3
        entries.append(figure(f"scoring_ms_{name}{end}", milliseconds, "ms per impression", **where))
    return entries
