"""Which kernels a server computes by: fused ones where they give what the stock layers give."""

import logging

import numpy as np
import torch

from equipoise.common.errors import UserError
from equipoise.modeling.cached_scorer import CachedScorer, TokenSlate
from equipoise.modeling.fused.requests import FusedScorer
from equipoise.modeling.model import SlateModel
from equipoise.modeling.precision import computing
from equipoise.modeling.prefix_cache import PrefixCache

log = logging.getLogger(__name__)
KERNELS = ("auto", "fused", "plain")
TOLERANCE = {"fp32": 1e-4, "bf16": 8e-2}
"""Largest difference of the vectors that heads read over their length, by precision."""
PROBE = (24, (8, 3, 11))
"""Tokens of a prefix and of its candidates, by which they are compared."""


def settle_kernels(model: SlateModel, wanted: str, precision: str) -> None:
    """Let a model that serves compute by fused kernels, or leave it as it is.

    Args:
        model: in evaluation form, on its device.
        wanted: `auto` takes fused ones on GPUs in bf16, where they agree with the stock layers on a probe.
        precision: of the computation, fp32 or bf16.

    Raises:
        UserError: fused ones are asked for, and cannot compute the model or differ.
    """
    device = next(model.parameters()).device
    if wanted == "plain" or (wanted == "auto" and (device.type != "cuda" or precision != "bf16")):
        return
    problem = _problem(model, precision, device)
    if problem is None:
        log.info("kernels: fused, which give what the stock layers give")
        return
    model.use_plain()
    if wanted == "fused":
        raise UserError(f"--kernels fused: {problem}: take auto or plain")
    log.info(f"kernels: plain, since {problem}")


def _problem(model: SlateModel, precision: str, device: torch.device) -> str | None:
    """Why fused kernels cannot serve a model; None where they can."""
    try:
        model.use_fused()
        return _difference(model, precision, device)
    except (UserError, RuntimeError, ImportError, NotImplementedError) as error:  # or a kernel that this machine lacks
        return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _difference(model: SlateModel, precision: str, device: torch.device) -> str | None:
    prefix, candidates = PROBE
    ids = np.random.default_rng(0).integers(0, model.backbone.config.vocab_size, prefix + sum(candidates))
    parts = np.split(ids, np.cumsum([prefix, *candidates[:-1]]))
    slates = [TokenSlate(parts[0].tolist(), [part.tolist() for part in parts[1:]])]
    with computing(precision, device):
        expected, found = (
            kind(model, PrefixCache(0), prefix).vectors(slates, model.objectives)
            for kind in (CachedScorer, FusedScorer)
        )
    pairs = [(found[name].float(), expected[name].float()) for name in model.objectives]
    difference = max(float((one - other).norm() / other.norm().clamp(min=1e-12)) for one, other in pairs)
    if not difference <= TOLERANCE[precision]:
        most = TOLERANCE[precision]
        return f"they differ from the stock layers by {difference:.1e} of a vector's length (at most {most:.0e})"
    return None
