"""Before training: is a packed slate the same to this backbone as its prompts one by one?

The packed form rests on the backbone's attention doing what it is asked to. This compares, on the first batch, the
vectors of a few candidates with those of separate prompts under ordinary masked attention, for every objective.
"""

import torch
from torch import nn

from equipoise.common.errors import UserError
from equipoise.data.batches import SlateBatch
from equipoise.modeling.model import ForwardRequest, SlateModel
from equipoise.train.world import World

CANDIDATES = 4
TOLERANCE = {"fp32": 1e-3, "bf16": 8e-2}
"""Largest distance of two vectors over the length of the separate prompt's, by `train.precision`."""


def separate_prompts(batch: SlateBatch, candidates: list[int]) -> dict[str, torch.Tensor]:
    """Some candidates of a batch as model inputs, each a row of its own: its prefix and itself."""
    width = batch.input_ids.shape[1]
    rows = [int(batch.candidate_tokens[n, 0]) // width for n in candidates]
    prefixes = [int((batch.segment_ids[row] == 0).sum()) for row in rows]
    lengths = [int((batch.candidate_tokens[n] >= 0).sum()) for n in candidates]
    longest = max(p + c for p, c in zip(prefixes, lengths, strict=True))
    ids = batch.input_ids.new_zeros(len(candidates), longest)
    segments = torch.full_like(ids, -1)
    tokens = torch.full((len(candidates), max(lengths)), -1, dtype=torch.int64, device=ids.device)
    for line, (n, row, prefix, length) in enumerate(zip(candidates, rows, prefixes, lengths, strict=True)):
        ids[line, :prefix] = batch.input_ids[row, :prefix]
        own = batch.candidate_tokens[n, :length]
        ids[line, prefix : prefix + length] = batch.input_ids.reshape(-1)[own]
        segments[line, :prefix], segments[line, prefix : prefix + length] = 0, 1
        tokens[line, :length] = line * longest + prefix + torch.arange(length, device=ids.device)
    return {
        "input_ids": ids,
        "position_ids": torch.arange(longest, device=ids.device).expand(len(candidates), -1) * (segments >= 0),
        "segment_ids": segments,
        "candidate_tokens": tokens,
        "slate_candidates": torch.arange(len(candidates), device=ids.device)[:, None],
        **batch.head_columns(candidates),
    }


@torch.no_grad()
def self_check(
    model: nn.Module, slate_model: SlateModel, batch: SlateBatch, world: World, precision: str = "fp32"
) -> float:
    """Compare and return the largest relative distance over all processes.

    Args:
        model: as the engine wraps it.
        slate_model: the same, unwrapped.
        batch: of this process, on its device.
        world: the processes of the job; all must call this.
        precision: of the computation, fp32 or bf16 (outputs are widened again, so they do not tell).

    Raises:
        UserError: a packed slate is not the same as its separate prompts.
    """
    count = batch.candidate_tokens.shape[0]
    chosen = sorted({round(k * (count - 1) / (CANDIDATES - 1)) for k in range(CANDIDATES)})
    was_training = model.training
    model.eval()
    try:
        packed = model(request=ForwardRequest(batch.model_inputs(), keep_vectors=True))
        with slate_model.backbone.using("sdpa"):
            alone = model(request=ForwardRequest(separate_prompts(batch, chosen), keep_vectors=True))
    finally:
        model.train(was_training)
    worst = torch.zeros((), dtype=torch.float64)
    for name in slate_model.objectives:
        one, other = packed[f"{name}.vector"][chosen], alone[f"{name}.vector"]
        distance = (one.double() - other.double()).norm(dim=1) / other.double().norm(dim=1).clamp(min=1e-12)
        worst = torch.maximum(worst, distance.max().cpu())
    largest = max(float(value) for value in world.gather(float(worst.nan_to_num(nan=torch.inf))))
    if not largest <= TOLERANCE[precision]:
        raise UserError(
            f"backbone.attention: packed slates and separate prompts differ by {largest:.1e} (relative, at most "
            f"{TOLERANCE[precision]:.0e} is allowed) on this backbone: set backbone.attention=sdpa, or choose another "
            "backbone if it is set already"
        )
    return largest
