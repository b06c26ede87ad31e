"""Heads: a logit per candidate for pointwise objectives, an adjustment δ within the slate for list-wise ones.

Shape suffixes: N candidates of the batch, S slates, M slots of the longest slate, H hidden size.
"""

import torch
from torch import nn


class PointHead(nn.Module):
    """One bias-free linear map, as the `score` of stock sequence classifiers, so that it exports as such.

    The log-odds of the base rate, which a bias would have to learn, are a constant added outside (model.offsets).
    """

    def __init__(self, hidden: int, outputs: int = 1) -> None:
        super().__init__()
        self.score = nn.Linear(hidden, outputs, bias=False)
        nn.init.normal_(self.score.weight, std=1.0 / hidden)  # the first logit is the base rate's, give or take 0.05

    def forward(self, pooled_NH: torch.Tensor) -> torch.Tensor:
        """Raw scores, float32, (N, outputs)."""
        return self.score(pooled_NH.to(self.score.weight.dtype)).float()


class SlateHead(nn.Module):
    """δ from one self-attention block over the candidates of a slate; permutation-equivariant; exactly 0 at the start.

    It reads each candidate's vector and its relevance r (no gradient flows into r).
    """

    def __init__(self, hidden: int, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.enter = nn.Linear(hidden, width)
        self.relevance = nn.Linear(1, width)
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.out = nn.Linear(width, 1, bias=False)
        self.heads = heads
        nn.init.zeros_(self.out.weight)

    def forward(self, pooled_NH: torch.Tensor, relevance_N: torch.Tensor, slots_SM: torch.Tensor) -> torch.Tensor:
        """δ of every candidate, float32, (N,).

        Args:
            pooled_NH: candidate vectors, slate after slate.
            relevance_N: r = Σ log p, without gradient.
            slots_SM: int64, the candidate (row of pooled_NH) in each slot, −1 where a slate is shorter.
        """
        dtype = self.enter.weight.dtype
        filled_SM = slots_SM >= 0
        index_SM = slots_SM.clamp(min=0)
        entered_NW = self.enter(pooled_NH.to(dtype)) + self.relevance(relevance_N.to(dtype)[:, None])
        x_SMW = entered_NW[index_SM]
        slates, slots, width = x_SMW.shape
        qkv = self.qkv(self.norm(x_SMW)).view(slates, slots, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=filled_SM[:, None, None, :])
        x_SMW = x_SMW + self.mix(attended.transpose(1, 2).reshape(slates, slots, width))
        delta_SM = self.out(nn.functional.gelu(x_SMW)).squeeze(-1).float()
        # Scatter back to the candidates' own order: a slate's candidates need not stand in the order of its slots.
        flat = torch.zeros(pooled_NH.shape[0], dtype=delta_SM.dtype, device=delta_SM.device)
        return flat.scatter(0, slots_SM[filled_SM], delta_SM[filled_SM])
