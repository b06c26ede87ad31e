"""Fused kernels beside the stock layers and beside separate prompts on a GPU, autocast as in training.

    python -m benchmarks.launches_gpu [--backbones llama1b,llama8b] [--rounds N] [--dry] --json FILE

One and four objectives on slates of 256 + 20 · 16 tokens, at 2,304, 8,064 and 16,128 tokens a micro-batch:
`step_ms_fused_BACKBONE_kK_TOKENS` and `…_plain_…`, `share_of_peak_…` (FLOPs that are computed over the card's dense
bf16 peak), `difference_BACKBONE`: of outputs and gradients from the stock layers, over their length, and
`bytes_peak_…`. With four objectives at 8,064 tokens also `ratio_peft_BACKBONE`: time per impression of plain PEFT with
one objective on separate prompts over ours, `ratio_peft_fast_BACKBONE`: of the same with Liger's kernels and
flash-attention 2, where those packages are installed, and what the profiler saw of one step: `launches_seen_BACKBONE`
beside what `benchmarks.launches` counts, `kernel_us_BACKBONE` and the kernels that take most of it. Without a GPU it
says so and measures nothing; `--dry` runs all of it once on a CPU with a tiny model, for the script alone.
"""

import argparse
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.balancing_steps import variant
from benchmarks.contender import Contender, seconds_per_impression
from benchmarks.figures import figure, ratio, report, show, take_turns, write
from benchmarks.peer_prompts import SeparatePrompts, stock_model
from benchmarks.slates_gpu import WAY, counted_flops, peak_flops
from benchmarks.workload import Sizes, Workload, build_workload, resized
from equipoise.train.kernel_choice import kernel_difference

OBJECTIVES = (1, 4)
SLATES: tuple[int, ...] = (4, 14, 28)
"""In a micro-batch."""
COMPARED = 14
"""In that which is compared with separate prompts."""
MOST_SHOWN = 12
"""Kernels by name, the longest first."""


def _sizes(slates: int) -> Sizes:
    return Sizes(slates, 20, 256, 16)


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _step(workload: Workload, way: str) -> None:
    (workload.model.use_fused if way == "fused" else workload.model.use_plain)()
    with torch.autocast(_device(), torch.bfloat16):
        variant(workload, "boundary")()


def _peak_bytes(step: Callable[[], object]) -> int:
    if not torch.cuda.is_available():
        return 0
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated()


def _times(backbone: str, workload: Workload, rounds: int) -> list[dict[str, Any]]:
    """Steps of one number of objectives at all numbers of tokens."""
    figures, objectives = [], len(workload.names)
    for slates in SLATES:
        sizes = _sizes(slates)
        tokens, now = slates * (sizes.prefix + sizes.candidates * sizes.length), resized(workload, sizes)
        if slates == SLATES[0] and objectives > 1:
            now.model.use_fused()
            with torch.autocast(_device(), torch.bfloat16):
                figures.append(figure(f"difference_{backbone}", kernel_difference(now.model, now.batch), ""))
        steps = {way: partial(_step, now, way) for way in ("fused", "plain")}
        seconds = take_turns(steps, rounds, warmup=2)
        peak = peak_flops(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
        flops = counted_flops(steps["plain"])
        for way, values in seconds.items():
            middle, end = float(np.median(values)), f"{way}_{backbone}_k{objectives}_{tokens}"
            figures.append(figure(f"step_ms_{end}", 1e3 * middle, "ms"))
            figures.append(figure(f"bytes_peak_{end}", _peak_bytes(steps[way]), "bytes"))
            if peak is not None:
                figures.append(figure(f"share_of_peak_{end}", flops / middle / peak, "of the peak"))
    return figures


def _fast_model(backbone: str) -> torch.nn.Module | None:
    """Plain PEFT with Liger's kernels and flash-attention 2; None where they are not installed."""
    missing = [name for name in ("liger_kernel", "flash_attn") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"no {' and no '.join(missing)} here: separate prompts are timed without", flush=True)
        return None
    from liger_kernel.transformers import _apply_liger_kernel_to_instance

    model: Any = stock_model(backbone, way=WAY)
    model.base_model.model.set_attn_implementation("flash_attention_2")
    _apply_liger_kernel_to_instance(model=model.base_model.model)
    return model


def _ratios(backbone: str, workload: Workload, rounds: int) -> list[dict[str, Any]]:
    """Separate prompts with one objective over ours with four, time per impression."""
    sizes = _sizes(COMPARED)
    prompts = Sizes(sizes.slates * 2, 1, sizes.prefix, sizes.length)
    ours = Contender(partial(_step, resized(workload, sizes), "fused"), sizes.slates * sizes.candidates)
    figures = []
    for end, model in (("", stock_model(backbone, way=WAY)), ("_fast", _fast_model(backbone))):
        if model is None:
            continue
        peer = SeparatePrompts(backbone, prompts, way=WAY, model=model)
        contenders = {"ours": ours, "peer": Contender(peer.step, prompts.slates)}
        times = ratio(seconds_per_impression(contenders, rounds), "peer", "ours")
        figures.append(figure(f"ratio_peft{end}_{backbone}", **times, unit="peer / ours, time per impression"))
        del peer, model
    return figures


def _kernels(events: Sequence[Any]) -> Mapping[str, tuple[float, int]]:
    """Microseconds and calls by name of the kernels among a profiler's events."""
    own = {e.key: (float(e.self_device_time_total), int(e.count)) for e in events if e.self_device_time_total > 0}
    return dict(sorted(own.items(), key=lambda item: -item[1][0]))


def _profile(backbone: str, workload: Workload) -> list[dict[str, Any]]:
    """What one step starts, and which kernels take its time."""
    step = partial(_step, resized(workload, _sizes(COMPARED)), "fused")
    step()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with profile(activities=activities) as seen:
        step()
    events = seen.key_averages()
    launches = sum(e.count for e in events if "LaunchKernel" in e.key)
    kernels = _kernels(events)
    longest = {name[:90]: round(us) for name, (us, _) in list(kernels.items())[:MOST_SHOWN]}
    total = sum(us for us, _ in kernels.values())
    return [
        figure(f"launches_seen_{backbone}", launches, "per micro-step"),
        figure(f"kernel_us_{backbone}", total, "µs per micro-step", longest=longest),
    ]


def measure(backbone: str, rounds: int) -> list[dict[str, Any]]:
    """The figures of one of BACKBONES."""
    figures: list[dict[str, Any]] = []
    for objectives in OBJECTIVES:
        workload = build_workload(backbone, objectives, _sizes(SLATES[0]), way=WAY)
        figures += _times(backbone, workload, rounds)
        if objectives == max(OBJECTIVES):
            figures += _profile(backbone, workload) + _ratios(backbone, workload, rounds)
        del workload
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return figures


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Fused kernels beside the stock layers on a GPU.")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--backbones", default="llama1b,llama8b", help="of benchmarks.workload")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each step")
    parser.add_argument("--dry", action="store_true", help="once on a CPU, with a tiny model and few tokens")
    asked = parser.parse_args()
    if asked.dry:
        global SLATES, COMPARED
        SLATES, COMPARED, asked.backbones, asked.rounds = (1, 2), 1, "tiny", 1
        torch.set_num_threads(1)
    elif not torch.cuda.is_available():
        parser.exit(2, "error: there is no GPU here: python -m benchmarks.launches counts without one\n")
    figures = [each for name in asked.backbones.split(",") for each in measure(name, asked.rounds)]
    write(asked.json, report("launches_gpu", figures))
    show("Fused kernels beside the stock layers", figures)


if __name__ == "__main__":
    main()
