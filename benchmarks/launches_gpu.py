"""Fused kernels beside the stock layers on a GPU, autocast as in training.

    python -m benchmarks.launches_gpu [--backbones llama1b,llama8b] --json FILE

Four objectives on slates of 256 + 20 · 16 tokens: `step_ms_fused_BACKBONE_TOKENS` and `…_plain_…` at 2,304 and 8,064
tokens, `share_of_peak_…` (FLOPs that are computed over the card's dense bf16 peak), `difference_BACKBONE`: of outputs
and gradients from the stock layers, over their length. Without a GPU it says so and measures nothing.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.balancing_steps import variant
from benchmarks.figures import figure, report, show, take_turns, write
from benchmarks.slates_gpu import WAY, counted_flops, peak_flops
from benchmarks.workload import Sizes, Workload, build_workload
from equipoise.train.kernel_choice import kernel_difference

OBJECTIVES, ROUNDS = 4, 8
SLATES = (4, 14)


def _step(workload: Workload, way: str) -> None:
    (workload.model.use_fused if way == "fused" else workload.model.use_plain)()
    with torch.autocast("cuda", torch.bfloat16):
        variant(workload, "boundary")()


def measure(backbone: str) -> list[dict[str, Any]]:
    """The figures of one of BACKBONES."""
    figures = []
    for slates in SLATES:
        sizes = Sizes(slates, 20, 256, 16)
        tokens = slates * (sizes.prefix + sizes.candidates * sizes.length)
        workload = build_workload(backbone, OBJECTIVES, sizes, way=WAY)
        if slates == SLATES[0]:
            workload.model.use_fused()
            with torch.autocast("cuda", torch.bfloat16):
                figures.append(figure(f"difference_{backbone}", kernel_difference(workload.model, workload.batch), ""))
        peak = peak_flops(torch.cuda.get_device_name())
        seconds = take_turns({way: partial(_step, workload, way) for way in ("fused", "plain")}, ROUNDS, warmup=2)
        workload.model.use_plain()
        flops = counted_flops(partial(_step, workload, "plain"))
        for way, values in seconds.items():
            middle = float(np.median(values))
            figures.append(figure(f"step_ms_{way}_{backbone}_{tokens}", 1e3 * middle, "ms"))
            if peak is not None:
                figures.append(figure(f"share_of_peak_{way}_{backbone}_{tokens}", flops / middle / peak, "of the peak"))
        del workload
        torch.cuda.empty_cache()
    return figures


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Fused kernels beside the stock layers on a GPU.")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--backbones", default="llama1b,llama8b", help="of benchmarks.workload")
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(2, "error: there is no GPU here: python -m benchmarks.launches counts without one\n")
    figures = [each for name in asked.backbones.split(",") for each in measure(name)]
    write(asked.json, report("launches_gpu", figures))
    show("Fused kernels beside the stock layers", figures)


if __name__ == "__main__":
    main()
