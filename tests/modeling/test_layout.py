"""Tokens without padding and back, for any lengths."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from equipoise.data.batches import Slate, build_batch
from equipoise.modeling.layout import Padding, SlateLayout, pad, unpad

LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=6)


@given(LENGTHS)
def test_padding_and_back(lengths: list[int]) -> None:
    even = len(set(lengths)) == 1
    padding = Padding.of(torch.tensor(lengths), max(lengths), even)
    flat = torch.arange(1.0, sum(lengths) + 1)[:, None].requires_grad_()
    padded = pad(flat, padding)
    assert padded.shape == (len(lengths), max(lengths), 1)
    parts = flat.detach().split(lengths)
    for line, part in zip(padded, parts, strict=True):
        torch.testing.assert_close(line[: len(part)], part)
    zeros = padding.pad_with_zeros(flat.detach())
    assert float(zeros.sum()) == float(flat.sum())
    torch.testing.assert_close(unpad(padded, padding), flat)
    # Padding repeats some token, but hands no gradient to it.
    (gradient,) = torch.autograd.grad((pad(flat, padding) * 3).sum(), flat)
    assert torch.equal(gradient, torch.full_like(flat, 3))
    wide = torch.randn(len(lengths), max(lengths), 1, requires_grad=True)
    (gradient,) = torch.autograd.grad(unpad(wide, padding).sum(), wide)
    assert int(gradient.sum()) == sum(lengths)
    mask = padding.mask(torch.float32)
    seen = torch.zeros(len(lengths), max(lengths)) if mask is None else mask[:, 0, 0]
    assert [int((line == 0).sum()) for line in seen] == lengths


@given(st.lists(st.tuples(st.integers(1, 5), LENGTHS), min_size=1, max_size=4), st.integers(1, 12), st.integers(12, 40))
def test_layouts_hold_every_token_once(shapes: list[tuple[int, list[int]]], most: int, max_row: int) -> None:
    slates, ids = [], iter(range(1, 10_000))
    for row, (prefix, lengths) in enumerate(shapes):
        candidates = [[next(ids) for _ in range(length)] for length in lengths]
        none = torch.zeros(len(lengths), dtype=torch.int64).numpy()
        slates.append(Slate(row, [10_000 + row] * prefix, candidates, none, none, none))
    batch = build_batch(slates, max_row, 0)
    layout = SlateLayout.of(batch.segment_ids, batch.candidate_tokens)
    flat = batch.input_ids.reshape(-1)
    wanted = [token for slate in slates for candidate in slate.candidates for token in candidate]
    assert flat[layout.candidate_tokens].tolist() == wanted
    assert (flat[layout.prefix_tokens] >= 10_000).all()
    assert layout.prefix_tokens.numel() + layout.candidate_tokens.numel() == int((batch.segment_ids >= 0).sum())
    ends = [candidate[-1] for slate in slates for candidate in slate.candidates]
    assert flat[layout.candidate_tokens][layout.last_N].tolist() == ends

    chunks = list(layout.chunks(most))
    assert torch.equal(torch.cat([chunk.candidate_tokens for chunk in chunks]), layout.candidate_tokens)
    assert [chunk.first for chunk in chunks] == torch.tensor([0, *(len(c.lengths_N) for c in chunks)]).cumsum(0)[
        :-1
    ].tolist()
    for chunk in chunks:
        assert chunk.candidate_tokens.numel() <= most or len(chunk.lengths_N) == 1
        assert chunk.first_row == int(chunk.row_N[0])
        assert chunk.rows.shape[0] == int(chunk.row_N[-1]) - chunk.first_row + 1
        assert chunk.most_per_row == int(torch.bincount(chunk.row_N).max())
