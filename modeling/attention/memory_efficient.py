"""Attention to a part of the keys on NVIDIA GPUs, by the memory-efficient kernels of PyTorch (Rabe & Staats 2021).

They hold no scores, give the log-sum-exp that makes parts addable, take masks, and run in float32 as well as in bf16.
Arguments and results are those of partial.py. Shape suffixes: B batch, h heads, Q queries, K keys, D
head size.
"""

import torch
from torch.nn.functional import pad

Mask = torch.Tensor | None

QUERIES = 32
"""The kernels want room for the log-sum-exp of so many queries at a time."""


def takes(q: torch.Tensor, v: torch.Tensor) -> bool:
    """Whether the kernels run on these: on a GPU, of a head size that its loads are aligned to."""
    aligned = all(x.shape[-1] * x.element_size() % 16 == 0 for x in (q, v))
    return q.device.type == "cuda" and aligned and q.dtype in (torch.float32, torch.bfloat16, torch.float16)


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, causal: bool, mask: Mask
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output (B, h, Q, D) and log-sum-exp, float32 (B, h, Q)."""
    parts = (x.transpose(1, 2) for x in (q, k, v))
    options = (None, None, None, None, 0.0, int(causal), True)  # no ragged lines, no dropout, give the log-sum-exp
    out, lse, *_ = torch.ops.aten._efficient_attention_forward(*parts, _bias(mask, q, k), *options, scale=scale)
    return out.transpose(1, 2), lse[:, :, : q.shape[2]]


def attend_backward(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    scale: float,
    causal: bool,
    mask: Mask,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of q, k and v."""
    grads, *parts, outs = (x.transpose(1, 2) for x in (grad, q, k, v, out))
    sums = pad(lse, (0, -lse.shape[-1] % QUERIES), value=torch.inf)
    unused = torch.zeros((), dtype=torch.int64, device=q.device)  # the dropout's seed and offset
    dq, dk, dv, _ = torch.ops.aten._efficient_attention_backward(
        grads,
        *parts,
        _bias(mask, q, k),
        outs,
        None,
        None,
        q.shape[2],
        k.shape[2],
        sums,
        0.0,
        unused,
        unused,
        int(causal),
        False,
        scale=scale,
    )
    return dq.transpose(1, 2), dk.transpose(1, 2), dv.transpose(1, 2)


def _bias(mask: Mask, q: torch.Tensor, k: torch.Tensor) -> Mask:
    """The mask over every head and query; its lines begin where the kernel's loads may."""
    if mask is None:
        return None
    keys = mask.shape[-1]
    aligned = pad(mask, (0, -keys % 8))[..., :keys]
    return aligned.expand(q.shape[0], q.shape[1], q.shape[2], keys)
