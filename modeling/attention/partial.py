"""Attention to a part of the keys: an output and its log-sum-exp, which make parts addable.

Softmax attention over two disjoint sets of keys is a weighted mean of the attention over each, with weights
exp(lse_part − lse_all) (Dao et al. 2022, "FlashAttention", §3.1; Liu et al. 2023, "Ring Attention"). Backward needs the
output and log-sum-exp of *all* keys only, so the parts are differentiated one by one with what they sum up to.

Shape suffixes: B batch, h heads, Q queries, K keys, D head size.
"""

import torch

from equipoise.modeling.attention import memory_efficient

Mask = torch.Tensor | None
"""Additive, 0 or −inf, of the queries' dtype, broadcastable to (B, h, Q, K); None: every key is seen."""

LARGEST_SCORES = 1 << 28
"""Scores that are held at once where no fused kernel does without them: 1 GiB in float32."""


def _fused(q: torch.Tensor, v: torch.Tensor) -> bool:
    return q.device.type in ("cpu", "meta") and q.shape[-1] == v.shape[-1]


def _wide(mask: Mask, q: torch.Tensor, k: torch.Tensor) -> Mask:
    return None if mask is None else mask.expand(q.shape[0], q.shape[1], q.shape[2], k.shape[2])


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, causal: bool, mask: Mask
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of queries (B, h, Q, D) to keys (B, h, K, D), without autograd.

    Every query must see a key. `causal`: query i sees keys 0 … i.

    Returns:
        the output, (B, h, Q, D) of q's dtype, and the log-sum-exp of the scores, float32 (B, h, Q).
    """
    if _fused(q, v):
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, causal, attn_mask=_wide(mask, q, k), scale=scale
        )
    if memory_efficient.takes(q, v):
        return memory_efficient.attend(q, k, v, scale, causal, mask)
    outputs, sums = [], []
    for part in _pieces(q, k):
        scores = _scores(q[part], k[part], scale, causal, mask, part)
        lse = scores.logsumexp(-1)
        outputs.append(torch.exp(scores - lse[..., None]).to(v.dtype) @ v[part])
        sums.append(lse)
    return torch.cat(outputs), torch.cat(sums)


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
    """Gradients of q, k and v through this part of the keys.

    Args:
        grad, out, lse: gradient of the output, output and log-sum-exp over all keys, those of other parts included.
    """
    if _fused(q, v):
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, q, k, v, out, lse, 0.0, causal, attn_mask=_wide(mask, q, k), scale=scale
        )
    if memory_efficient.takes(q, v):
        return memory_efficient.attend_backward(grad, q, k, v, out, lse, scale, causal, mask)
    grads: list[tuple[torch.Tensor, ...]] = []
    delta = (grad.float() * out.float()).sum(-1, keepdim=True)
    for part in _pieces(q, k):
        p = torch.exp(_scores(q[part], k[part], scale, causal, mask, part) - lse[part][..., None])
        dv = p.to(v.dtype).transpose(-1, -2) @ grad[part]
        ds = (p * ((grad[part] @ v[part].transpose(-1, -2)).float() - delta[part]) * scale).to(q.dtype)
        grads.append((ds @ k[part], ds.transpose(-1, -2) @ q[part], dv))
    dq, dk, dv = (torch.cat(pieces) for pieces in zip(*grads, strict=True))
    return dq, dk, dv


def _pieces(q: torch.Tensor, k: torch.Tensor) -> list[slice]:
    """Ranges of the batch whose scores fit."""
    each = max(1, q.shape[1] * q.shape[2] * k.shape[2])
    size = max(1, LARGEST_SCORES // each)
    return [slice(start, start + size) for start in range(0, q.shape[0], size)]


def _scores(q: torch.Tensor, k: torch.Tensor, scale: float, causal: bool, mask: Mask, part: slice) -> torch.Tensor:
    scores = (q @ k.transpose(-1, -2)).float() * scale
    if mask is not None:
        scores = scores + (mask[part] if mask.shape[0] > 1 else mask)
    if causal:
        later = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    return scores
