"""Large backbones on a GPU, bf16: our step, the usual recipe's, and the share of the peak FLOP/s that ours reaches; and
what the kernels of the attention are worth there, at several numbers of slates in a step."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.contender import Contender, seconds_per_impression
from benchmarks.figures import figure, ratio
from benchmarks.peer_prompts import SeparatePrompts
from benchmarks.slates_ours import OBJECTIVES, Point, training_step
from benchmarks.workload import Sizes, Way, Workload, build_workload, resized
from equipoise.modeling.attention import memory_efficient

WAY = Way(attention="auto", scope="candidates", dtype="bfloat16")
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
"""Dense bf16 FLOP/s by the card's name, as NVIDIA's data sheets give them (SXM where there are several)."""


def peak_flops(card: str) -> float | None:
    """The peak of a card by the name that torch gives; None where it is unknown."""
    words = card.replace("-", " ").split()
    return next((peak for name, peak in PEAK_FLOPS.items() if name in words), None)


def attention_flops(products: int) -> Callable[..., int]:
    """FLOPs of so many matrix products of queries (B, Q, h, D) and keys (B, K, h, D), from their shapes: torch's own
    count of this kernel takes h for the length."""

    def count(query: Sequence[int], key: Sequence[int], *rest: Any, **more: Any) -> int:
        batch, queries, heads, size = query
        return products * 2 * batch * heads * queries * key[1] * size

    return count


EFFICIENT = {
    torch.ops.aten._efficient_attention_forward: attention_flops(2),
    torch.ops.aten._efficient_attention_backward: lambda grad, *rest, **more: attention_flops(5)(*rest, **more),
}
"""How the kernels of equipoise.modeling.attention.memory_efficient are counted."""


def counted_flops(step: Any) -> int:
    """FLOPs that one step really computes: matrix products and attention, forward and backward, recomputation too."""
    with FlopCounterMode(display=False, custom_mapping=EFFICIENT) as counter:
        step()
    return counter.get_total_flops()


def _training_step(workload: Workload, **options: Any) -> Callable[[], None]:
    """A step under autocast, as a run takes it."""
    step = training_step(workload, **options)

    def under_autocast() -> None:
        with torch.autocast(workload.device.type, torch.bfloat16):
            step()

    return under_autocast


def gpu_figures(point: Point, rounds: int) -> list[dict[str, Any]]:
    """At one point: ours over one objective on separate prompts, milliseconds, and the share of the peak."""
    impressions, end = point.sizes.slates * point.sizes.candidates, f"_{point.backbone}"
    step = _training_step(build_workload(point.backbone, OBJECTIVES, point.sizes, way=WAY))
    peer = SeparatePrompts(point.backbone, point.separate(), way=WAY)
    contenders = {"ours": Contender(step, impressions), "separate_prompts": Contender(peer.step, point.prompts)}
    seconds = seconds_per_impression(contenders, rounds)
    where: dict[str, Any] = {**point.circumstances(), "dtype": WAY.dtype}
    unit = "separate_prompts / ours, time per impression"
    times = ratio(seconds, "separate_prompts", "ours")
    entries = [figure(f"time_ratio_separate_prompts{end}", **times, unit=unit, **where)]
    for name, values in seconds.items():
        entries.append(
            figure(f"impression_ms_{name}{end}", float(np.median(values)) * 1e3, "ms per impression", **where)
        )
    peak = peak_flops(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    if peak:
        reached = counted_flops(step) / (float(np.median(seconds["ours"])) * impressions)
        entries.append(figure(f"peak_share_ours{end}", reached / peak, "of the card's dense bf16 FLOP/s", **where))
    return entries


def way_figures(backbone: str, sizes: Sequence[Sizes], rounds: int) -> list[dict[str, Any]]:
    """Milliseconds of a step with four balanced objectives: as it is (`ours`), with plain matrix products in the place
    of the attention's kernels (`products`), with a mask over whole rows (`masked`); and with one objective (`one`)."""
    full = build_workload(backbone, OBJECTIVES, sizes[0], way=WAY)
    masked = build_workload(backbone, OBJECTIVES, sizes[0], way=replace(WAY, attention="sdpa"))
    single = build_workload(backbone, 1, sizes[0], way=WAY)
    entries = []
    for size in sizes:
        ours = _training_step(resized(full, size))

        def products(step: Callable[[], None] = ours) -> None:
            with patch.object(memory_efficient, "takes", return_value=False):
                step()

        steps = {
            "ours": ours,
            "products": products,
            "masked": _training_step(resized(masked, size)),
            "one": _training_step(resized(single, size), balancing=False),
        }
        seconds = seconds_per_impression({name: Contender(step, 1) for name, step in steps.items()}, rounds)
        where: dict[str, Any] = {"backbone": backbone, "slates": size.slates, "dtype": WAY.dtype}
        for name, values in seconds.items():
            end = f"{name}_{backbone}_S{size.slates}"
            entries.append(figure(f"gpu_step_ms_{end}", float(np.median(values)) * 1e3, "ms per step", **where))
    return entries
