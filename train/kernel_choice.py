"""Which kernels training differentiates by: fused ones where they give what the stock layers give."""

import logging
from typing import Literal

import torch

from equipoise.common.errors import UserError
from equipoise.data.batches import SlateBatch
from equipoise.modeling.model import ForwardRequest, SlateModel
from equipoise.train.world import World

log = logging.getLogger(__name__)

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
