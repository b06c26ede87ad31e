"""Before training: is a packed slate the same to this backbone as its prompts one by one?

The packed form rests on the backbone's attention doing what it is asked to. This compares, on the first batch, the
vectors of a few candidates with those of separate prompts under ordinary masked attention, for every objective. Fused
kernels are compared with the stock layers there too.
"""

import logging
from typing import Literal

import torch
from torch import nn

from equipoise.common.errors import UserError
from equipoise.data.batches import SlateBatch
from equipoise.modeling.model import ForwardRequest, SlateModel
from equipoise.train.world import World

log = logging.getLogger(__name__)

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


KERNEL_TOLERANCE = {"fp32": 1e-3, "bf16": 8e-2}
"""Largest difference of outputs and of gradients over their length, by `train.precision`."""


def settle_kernels(
    slate_model: SlateModel,
    batch: SlateBatch,
    world: World,
    precision: str,
    wanted: Literal["auto", "fused", "plain"],
) -> None:
    """Choose the kernels that training differentiates by, and say why where it is not the obvious ones.

    Args:
        slate_model: not wrapped by an engine.
        batch: of this process, on its device.
        world: the processes of the job; all must call this.
        precision: of the computation, fp32 or bf16.
        wanted: `backbone.kernels`; `auto` takes fused ones on GPUs where they agree with the stock layers.

    Raises:
        UserError: fused ones are asked for, and cannot compute the run or differ.
    """
    if wanted == "plain" or (wanted == "auto" and batch.input_ids.device.type != "cuda"):
        return
    problem = None
    try:
        slate_model.use_fused()
    except UserError as error:
        if wanted == "fused":
            raise
        problem = str(error)
    if problem is None:
        problem = _kernel_problem(slate_model, batch, precision)
    problems = [each for each in world.gather(problem) if each is not None]
    if not problems:
        log.info("kernels: fused, which give what the stock layers give on the first batch")
        return
    slate_model.use_plain()
    if wanted == "fused":
        raise UserError(f"backbone.kernels: {problems[0]}: set backbone.kernels=plain")
    log.info(f"kernels: plain, since {problems[0]}")


def _kernel_problem(slate_model: SlateModel, batch: SlateBatch, precision: str) -> str | None:
    """What is wrong with fused kernels on a batch; None where nothing is."""
    try:
        difference = kernel_difference(slate_model, batch)
    except (RuntimeError, ImportError, NotImplementedError) as error:  # a kernel that this machine lacks
        return f"fused kernels fail here ({str(error).strip().splitlines()[0]})"
    if not difference <= KERNEL_TOLERANCE[precision]:
        return (
            f"fused kernels differ from the stock layers by {difference:.1e} of the length of outputs or gradients "
            f"(at most {KERNEL_TOLERANCE[precision]:.0e} is allowed)"
        )
    return None


def kernel_difference(slate_model: SlateModel, batch: SlateBatch) -> float:
    """The larger of the relative differences of outputs and of gradients between the present kernels and plain ones.

    Under `fused` on entry and on return; the gradients of parameters are left alone.
    """
    parameters = [p for p in slate_model.parameters() if p.requires_grad]
    found = []
    for way in ("fused", "plain"):
        (slate_model.use_fused if way == "fused" else slate_model.use_plain)()
        outputs = slate_model(request=ForwardRequest(batch.model_inputs()))
        joined = torch.cat([outputs[name].float() for name in slate_model.objectives])
        weights = torch.linspace(-1, 1, len(joined), device=joined.device)
        gradients = torch.autograd.grad((joined * weights).sum(), parameters, allow_unused=True)
        flat = [gradient.detach().float().reshape(-1) for gradient in gradients if gradient is not None]
        found.append((joined.detach(), torch.cat(flat)))
    slate_model.use_fused()
    return max(float((one - other).norm() / other.norm().clamp(min=1e-12)) for one, other in zip(*found, strict=True))
