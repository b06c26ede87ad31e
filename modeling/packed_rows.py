"""A slate as one row under a T × T mask: for backbones that cannot split the attention, and the reference.

Shape suffixes as in modeling/model.py.
"""

from collections.abc import Sequence
from typing import Any

import torch

from equipoise.modeling.masks import slate_additive_mask, slate_block_mask, slate_mask
from equipoise.modeling.packing import Packing
from equipoise.modeling.upper import UpperLayers

FLEX_BLOCK = 128


class PackedRows(Packing):
    """Rows as the batch has them, padding included.

    Args:
        upper: the upper layers.
        input_ids, position_ids, segment_ids: int64 (R, T), as the model takes them.
        candidate_tokens: int64 (N, L).
        candidates_only: objective adapters act on candidate tokens alone.
    """

    def __init__(
        self,
        upper: UpperLayers,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        segment_ids: torch.Tensor,
        candidate_tokens: torch.Tensor,
        candidates_only: bool,
    ) -> None:
        self.upper, self.backbone = upper, upper.backbone
        self.flex = self.backbone.attention == "flex"
        if self.flex:  # whole blocks, so that few shapes are compiled
            width = input_ids.shape[1]
            more = -width % FLEX_BLOCK
            input_ids, position_ids = (torch.nn.functional.pad(x, (0, more)) for x in (input_ids, position_ids))
            segment_ids = torch.nn.functional.pad(segment_ids, (0, more), value=-1)
            row_NL = candidate_tokens.clamp(min=0) // width
            candidate_tokens = torch.where(candidate_tokens < 0, -1, candidate_tokens + row_NL * more)
        self.input_ids, self.position_ids, self.segment_ids = input_ids, position_ids, segment_ids
        self.candidate_tokens = candidate_tokens
        self.acts_on_RT1 = (segment_ids > 0).unsqueeze(-1) if candidates_only else None
        self._calls: list[Any] = []

    @property
    def computed_tokens(self) -> int:
        return self.input_ids.numel()

    def encode(self) -> list[torch.Tensor]:
        """z (R, T, H) alone."""
        make = {"flex": slate_block_mask, "eager": slate_additive_mask}.get(self.backbone.attention, slate_mask)
        causal = not self.backbone.encoder
        mask = below = make(self.segment_ids, causal=causal)
        if self.backbone.apart:
            below = make(self.segment_ids, causal=causal, apart=True)
        z_RTH = self.backbone.encode(self.input_ids, self.position_ids, below)
        self._calls = [call.with_mask(below, mask) for call in self.backbone.calls()]
        return [z_RTH]

    def run_tower(self, name: str, parts: Sequence[torch.Tensor], pooling: str | None = None) -> torch.Tensor:
        (hidden_RTH,) = parts
        for index, call in enumerate(self._calls):
            hidden_RTH = self.upper.run(index, name, call, hidden_RTH, self.acts_on_RT1)
        return self._pool(hidden_RTH, pooling or self.backbone.pooling)

    def _pool(self, hidden_RTH: torch.Tensor, pooling: str) -> torch.Tensor:
        """One vector per candidate: its last token or the mean of its tokens."""
        if pooling == "last":
            flat = hidden_RTH.reshape(-1, hidden_RTH.shape[-1])
            last_N1 = (self.candidate_tokens >= 0).sum(1, keepdim=True) - 1
            return self.backbone.norm(flat[self.candidate_tokens.gather(1, last_N1).squeeze(1)])
        return self.mean_of_candidates(self.backbone.norm(hidden_RTH))

    def tokens_of_candidates(self, parts: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        (states_RTH,) = parts
        owner_F, column_F = (self.candidate_tokens >= 0).nonzero(as_tuple=True)
        flat = states_RTH.reshape(-1, states_RTH.shape[-1])
        return flat[self.candidate_tokens[owner_F, column_F]], owner_F

    def mean_of_candidates(self, states: torch.Tensor) -> torch.Tensor:
        flat = states.reshape(-1, states.shape[-1])
        tokens_NLH = flat[self.candidate_tokens.clamp(min=0)]
        weights_NL1 = (self.candidate_tokens >= 0).unsqueeze(-1).to(tokens_NLH.dtype)
        return (tokens_NLH * weights_NL1).sum(1) / weights_NL1.sum(1)
