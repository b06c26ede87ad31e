"""What a step of packed slates takes without a clock: its peak memory, and the token positions that are padding.

Memory is measured in fresh processes by benchmarks.balancing_memory: what two steps take above what the loaded model
holds.
"""

from typing import Any

import torch

from benchmarks.balancing_memory import SEPARATE, measure
from benchmarks.figures import figure
from benchmarks.peers import has_libmtl
from benchmarks.slates_ours import FAST, LIBMTL_WAY, OBJECTIVES
from benchmarks.workload import Sizes
from equipoise.configs.schema import RunConfig
from equipoise.train.assemble import assemble_model, open_data, train_batches
from equipoise.train.objectives.registry import build_objectives
from equipoise.train.token_caches import find_tokens
from equipoise.train.world import World

PADDING_BATCHES = 50
"""Read from the start of the first epoch, whose order is a function of the seed."""


def memory_figures(backbone: str, sizes: Sizes) -> list[dict[str, Any]]:
    """Our peak, LibMTL's where it is installed, and their ratio."""
    end = f"_{backbone}"
    where: dict[str, Any] = {"backbone": backbone, "objectives": OBJECTIVES, **vars(sizes)}
    our_peak = measure(backbone, OBJECTIVES, "boundary", sizes, FAST)
    entries = [figure(f"peak_mib_ours{end}", our_peak / 2**20, "MiB above the model", **where)]
    if has_libmtl():
        peer_peak = measure(backbone, OBJECTIVES, f"libmtl{SEPARATE}", sizes, LIBMTL_WAY)
        entries.append(figure(f"peak_mib_libmtl{end}", peer_peak / 2**20, "MiB above the model", **where))
        entries.append(figure(f"memory_ratio_libmtl{end}", our_peak / peer_peak, "our peak / peer's peak", **where))
    return entries


@torch.inference_mode()
def padding_share(config: RunConfig, batches: int = PADDING_BATCHES) -> dict[str, float]:
    """1 − real tokens / token places that pass the linear layers, over the first training batches of one process.

    A prefix that a slate repeats in a further row counts as real.

    Returns:
        `linear`, the share as the config's attention computes it (the model counts in a forward), and `rows`,
        what it would be in rows under a mask.

    Raises:
        UserError: the prepared folder is missing or does not fit the config.
    """
    objectives = build_objectives(config.objectives)
    data = open_data(config, "train", objectives, find_tokens(config))
    model, _ = assemble_model(config, data)
    order = train_batches(config, data, World())
    tokens = computed = positions = 0
    for number in range(batches):
        batch = order[number]
        model.score(batch.model_inputs())
        computed += model.computed_tokens
        tokens += int((batch.segment_ids >= 0).sum())
        positions += batch.segment_ids.numel()
    return {"linear": 1 - tokens / computed, "rows": 1 - tokens / positions}
