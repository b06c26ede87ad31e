"""The packed attention mask, pair by pair."""

import pytest
import torch

from equipoise.modeling.masks import slate_mask

ROWS = [[0, 0, 1, 1, 2, 3, 3, -1], [0, 1, 2, -1, -1, -1, -1, -1]]


@pytest.mark.parametrize("causal", [True, False])
def test_who_sees_whom(causal: bool) -> None:
    mask = slate_mask(torch.tensor(ROWS), causal)
    assert mask.shape == (2, 1, 8, 8)
    for r, row in enumerate(ROWS):
        for q, query in enumerate(row):
            for k, key in enumerate(row):
                prefix, same = key == 0, key == query
                seen = query >= 0 and key >= 0 and (prefix or same) and (k <= q or not causal)
                seen = seen or q == k  # padding has itself alone, or its softmax would be NaN
                assert bool(mask[r, 0, q, k]) == seen, (r, q, k)


def test_a_prefix_never_sees_a_candidate_even_in_encoders() -> None:
    mask = slate_mask(torch.tensor([[0, 0, 0, 1, 1, 2]]), causal=False)[0, 0]
    assert mask[:3].sum() == 9
    assert mask[:3, 3:].sum() == 0
    assert mask[0, 2]  # though it sees its own later tokens
