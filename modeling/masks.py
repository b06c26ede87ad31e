"""The attention mask of packed slates: every candidate sees the prefix and itself, the prefix sees the prefix.

Shape suffixes: R rows, T tokens of a row.
"""

import torch


def slate_mask(segment_ids_RT: torch.Tensor, causal: bool) -> torch.Tensor:
    """The boolean mask (R, 1, T, T), True where a query token may see a key token.

    Args:
        segment_ids_RT: int; −1 padding, 0 prefix, 1, 2, … the candidates of the row.
        causal: decoders see no later token.
    """
    query, key = segment_ids_RT[:, :, None], segment_ids_RT[:, None, :]
    allowed = ((key == 0) & (query >= 0)) | ((key == query) & (key >= 0))
    tokens = segment_ids_RT.shape[1]
    if causal:
        order = torch.arange(tokens, device=segment_ids_RT.device)
        allowed = allowed & (order[None, :] <= order[:, None])
    # Padding sees itself: a query without any key would give NaN.
    own = torch.eye(tokens, dtype=torch.bool, device=segment_ids_RT.device)
    return (allowed | own)[:, None]
