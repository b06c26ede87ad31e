"""Compares each candidate with each thing of its shopper's history by two learned projections of frozen vectors.

A tower pools shopper and item into one vector and never sets an item beside each thing bought; this does, as DIN
(Zhou et al. 2018) attends over the history. Both projections begin as the same principal axes of all things, so that
their products begin as the similarities that frozen vectors give.

Shape suffixes as in modeling/model.py, and: U distinct things of the batch, D size of their vectors, Q width of the
projections, H things of the longest history, P pooled numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

BEST = (1, 3, 5)
"""Of the products with a history, the means of the best few that the head reads."""
POOLED = 3 + len(BEST)
"""Numbers that a history is pooled to: soft maximum, mean, log size, and the best few."""
SHARPNESS = 6.0
"""Of the soft maximum log Σ exp(s·x) / s; cosines of titles are between about −0.2 and 1."""
LOWEST = -2.0
"""What stands for products with no history at all, below any cosine."""
WIDTH = 256
"""Of the first layer that reads all numbers; at 64 some seeds find half of what others do."""


@dataclass(frozen=True)
class ComparisonShape:
    """Sizes of a comparison.

    Attributes:
        vectors: D of the frozen vectors.
        width: Q of the projections; at most D.
    """

    vectors: int
    width: int


Compared = Mapping[str, torch.Tensor]
"""What is compared in a batch.

vectors: float32 (U, D), of unit length.
history: int64 (S, H), rows of `vectors`, the latest thing first, −1 where a history is shorter.
candidate: int64 (N,), row of `vectors`, −1 where nothing is known of the candidate's thing.
"""


class Comparison(nn.Module):
    """A residual of the logit, float32 (N,); exactly 0 at the start.

    Args:
        shape: of vectors and projections.
        columns: numbers per candidate that are read beside the products: features and the prior.
    """

    def __init__(self, shape: ComparisonShape, columns: int) -> None:
        super().__init__()
        self.of_candidate = nn.Linear(shape.vectors, shape.width, bias=False)
        self.of_history = nn.Linear(shape.vectors, shape.width, bias=False)
        nn.init.orthogonal_(self.of_candidate.weight)
        self.start(self.of_candidate.weight.detach().clone())
        self.enter = nn.Linear(columns + POOLED, WIDTH)
        self.mix = nn.Linear(WIDTH, WIDTH // 2)
        self.out = nn.Linear(WIDTH // 2, 1)
        self.straight = nn.Linear(POOLED, 1, bias=False)
        for zero in (self.out.weight, self.out.bias, self.straight.weight):
            nn.init.zeros_(zero)

    def start(self, axes_QD: torch.Tensor) -> None:
        """Let both projections begin as these axes, float32 (Q, D), orthonormal rows."""
        with torch.no_grad():
            self.of_candidate.weight.copy_(axes_QD)
            self.of_history.weight.copy_(axes_QD)

    def pool(self, compared: Compared, candidates_SM: torch.Tensor) -> torch.Tensor:
        """The products of every candidate with its slate's history, pooled: float32 (N, P); 0 without a history."""
        dtype = self.of_candidate.weight.dtype
        history_SH, candidate_N = compared["history"], compared["candidate"]
        vectors_UD = compared["vectors"].to(dtype)
        short = max(BEST) - history_SH.shape[1]
        if short > 0:
            history_SH = nn.functional.pad(history_SH, (0, short), value=-1)
        filled_SM = candidates_SM >= 0
        candidate_SM = torch.where(filled_SM, candidate_N[candidates_SM.clamp(min=0)], -1)
        of_history_SHQ = nn.functional.embedding(history_SH.clamp(min=0), self.of_history(vectors_UD))
        of_candidate_SMQ = nn.functional.embedding(candidate_SM.clamp(min=0), self.of_candidate(vectors_UD))
        products_SMH = (of_candidate_SMQ @ of_history_SHQ.transpose(1, 2)).float()
        left_out_SMH = (history_SH < 0)[:, None] | (candidate_SM < 0)[:, :, None]
        left_out_SMH = left_out_SMH | (candidate_SM[:, :, None] == history_SH[:, None])
        count_SM = (~left_out_SMH).sum(-1)
        shown_SMH = products_SMH.masked_fill(left_out_SMH, -1e4)
        best_SMB = shown_SMH.topk(max(BEST), -1).values.clamp(min=-1.0)
        soft_SM = (torch.logsumexp(shown_SMH * SHARPNESS, -1) / SHARPNESS).clamp(min=LOWEST)
        mean_SM = products_SMH.masked_fill(left_out_SMH, 0.0).sum(-1) / count_SM.clamp(min=1)
        parts = [soft_SM, mean_SM, count_SM.float().log1p(), *(best_SMB[..., :few].mean(-1) for few in BEST)]
        pooled_SMP = torch.stack(parts, -1).masked_fill((count_SM == 0)[..., None], 0.0)
        # Back to the candidates' own order: a slate's candidates need not stand in the order of its positions.
        pooled_NP = pooled_SMP.new_zeros(candidate_N.shape[0], pooled_SMP.shape[-1])
        return pooled_NP.index_copy(0, candidates_SM[filled_SM], pooled_SMP[filled_SM])

    def forward(self, compared: Compared, candidates_SM: torch.Tensor, columns_NC: torch.Tensor) -> torch.Tensor:
        """The residual, float32 (N,).

        Args:
            compared: vectors and who is compared with whom.
            candidates_SM: int64 (S, M), the candidate at each position of a slate, −1 where a slate is shorter.
            columns_NC: float32 (N, columns).
        """
        pooled_NP = self.pool(compared, candidates_SM)
        read_NC = torch.cat([columns_NC.float(), pooled_NP], -1).to(self.enter.weight.dtype)
        hidden = nn.functional.gelu(self.mix(nn.functional.gelu(self.enter(read_NC))))
        straight_N1 = self.straight(pooled_NP.to(self.straight.weight.dtype))
        return (self.out(hidden) + straight_N1).float()[:, 0]
