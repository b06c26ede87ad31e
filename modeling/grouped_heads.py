"""Heads of one shape as one: their products are batched, which costs the operations of a single head.

Shape suffixes: K or J heads, N candidates, H hidden size, O outputs, W width of a slate head; S slates, M positions.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from equipoise.modeling.heads import SLATE_PARTS, HeadInputs, PointHead, SlateHead, adjustments


def stack_parameters(modules: Sequence[nn.Module]) -> dict[str, torch.Tensor]:
    """The parameters of modules of one class and shape, (K, …) each, differentiable; one copy of them all."""
    named = [dict(module.named_parameters()) for module in modules]
    flat_K = torch.cat([p.reshape(-1) for each in named for p in each.values()]).view(len(modules), -1)
    pieces = flat_K.split([p.numel() for p in named[0].values()], 1)
    return {name: piece.view(-1, *p.shape) for (name, p), piece in zip(named[0].items(), pieces, strict=True)}


def _linear(weight_KOI: torch.Tensor, bias_KO: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    flat = x.flatten(1, -2)
    if bias_KO is None:
        out = torch.bmm(flat, weight_KOI.transpose(1, 2))
    else:
        out = torch.baddbmm(bias_KO[:, None], flat, weight_KOI.transpose(1, 2))
    return out.view(*x.shape[:-1], -1)


def _norm(weight_KW: torch.Tensor, bias_KW: torch.Tensor, eps: float, x_KSMW: torch.Tensor) -> torch.Tensor:
    normed = nn.functional.layer_norm(x_KSMW, x_KSMW.shape[-1:], eps=eps)
    return torch.addcmul(bias_KW[:, None, None], normed, weight_KW[:, None, None])


def point_scores(
    heads: Sequence[PointHead], pooled_KNH: torch.Tensor, inputs: Sequence[HeadInputs]
) -> list[torch.Tensor]:
    """Raw scores of each pointwise head, float32 (N, outputs).

    Args:
        heads: K of them.
        pooled_KNH: what each reads, float32.
        inputs: beside it.
    """
    weights = [head.score.weight for head in heads]
    if len({weight.shape for weight in weights}) > 1:  # an estimator has further outputs
        return [head(pooled, own) for head, pooled, own in zip(heads, pooled_KNH, inputs, strict=True)]
    scores_KNO = torch.bmm(pooled_KNH.to(weights[0].dtype), torch.stack(weights).transpose(1, 2)).float()
    parts = zip(heads, scores_KNO.unbind(), pooled_KNH.unbind(), inputs, strict=True)
    return [head.beside(scores, pooled, own) for head, scores, pooled, own in parts]


def slate_adjustments(
    heads: Sequence[SlateHead], pooled_JNH: torch.Tensor, relevance_N: torch.Tensor, candidates_SM: torch.Tensor
) -> torch.Tensor:
    """δ of every candidate by each slate head, float32 (J, N); arguments as in `SlateHead`."""
    stacked, eps = stack_parameters(heads), heads[0].norm.eps
    parts = {
        name: partial(_linear, stacked[f"{name}.weight"], stacked.get(f"{name}.bias"))
        for name in SLATE_PARTS
        if name != "norm"
    }
    parts["norm"] = partial(_norm, stacked["norm.weight"], stacked["norm.bias"], eps)
    dtype = stacked["enter.weight"].dtype
    relevance_JN1 = relevance_N.to(dtype)[None, :, None].expand(len(heads), -1, -1)
    return adjustments(parts, pooled_JNH.to(dtype), relevance_JN1, candidates_SM, heads[0].heads)
