"""The attention mask of packed slates: every candidate sees the prefix and itself, the prefix sees the prefix.

Shape suffixes: R rows, T tokens of a row.
"""

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask


def slate_mask(segment_ids_RT: torch.Tensor, causal: bool, apart: bool = False) -> torch.Tensor:
    """The boolean mask (R, 1, T, T), True where a query token may see a key token.

    Args:
        segment_ids_RT: int; −1 padding, 0 prefix, 1, 2, … the candidates of the row.
        causal: decoders see no later token.
        apart: candidates see themselves alone.
    """
    query, key = segment_ids_RT[:, :, None], segment_ids_RT[:, None, :]
    allowed = (key == query) & (key >= 0)
    if not apart:
        allowed = allowed | ((key == 0) & (query >= 0))
    tokens = segment_ids_RT.shape[1]
    if causal:
        order = torch.arange(tokens, device=segment_ids_RT.device)
        allowed = allowed & (order[None, :] <= order[:, None])
    # Padding sees itself: a query without any key would give NaN.
    own = torch.eye(tokens, dtype=torch.bool, device=segment_ids_RT.device)
    return (allowed | own)[:, None]


def slate_additive_mask(segment_ids_RT: torch.Tensor, causal: bool, apart: bool = False) -> torch.Tensor:
    """`slate_mask` as float32 that is added to scores: 0 where a key is seen, else the lowest number."""
    mask = slate_mask(segment_ids_RT, causal, apart)
    zeros = torch.zeros(mask.shape, dtype=torch.float32, device=mask.device)
    return zeros.masked_fill_(~mask, torch.finfo(torch.float32).min)


def restarted(position_ids_RT: torch.Tensor, segment_ids_RT: torch.Tensor) -> torch.Tensor:
    """Positions at which candidates begin at 0, like prefixes; int64 (R, T)."""
    prefix_R1 = (segment_ids_RT == 0).sum(1, keepdim=True)
    return torch.where(segment_ids_RT > 0, position_ids_RT - prefix_R1, position_ids_RT)


def slate_block_mask(segment_ids_RT: torch.Tensor, causal: bool, apart: bool = False) -> BlockMask:
    """`slate_mask` as a block mask of FlexAttention, which never holds T × T entries on a GPU."""

    def allowed(row: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        asking, asked = segment_ids_RT[row, query], segment_ids_RT[row, key]
        seen = ((asked == 0) & (asking >= 0)) | ((asked == asking) & (asked >= 0))
        return ((seen & (key <= query)) if causal else seen) | (query == key)

    def allowed_apart(row: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        asking, asked = segment_ids_RT[row, query], segment_ids_RT[row, key]
        seen = (asked == asking) & (asked >= 0)
        return ((seen & (key <= query)) if causal else seen) | (query == key)

    rows, tokens = segment_ids_RT.shape
    return create_block_mask(
        allowed_apart if apart else allowed, rows, None, tokens, tokens, device=segment_ids_RT.device
    )
