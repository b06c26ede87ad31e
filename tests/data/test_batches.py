"""Packing slates into rows: every token, position and index."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from equipoise.data.batches import Slate, SlateBatch, SlateRest, build_batch
from equipoise.data.ragged import RowLengths


def small() -> list[Slate]:
    return [
        Slate(
            row=7,
            prefix=[10, 11],
            candidates=[[20, 21], [22], [23, 24]],
            item=np.array([4, 0, 2]),
            click=np.array([1, 0, 0], dtype=np.int8),
            conversion=np.array([1, 0, 0], dtype=np.int8),
            log_sampling_rate=-0.5,
        ),
        Slate(
            row=3,
            prefix=[12],
            candidates=[[25, 26, 27]],
            item=np.array([1]),
            click=np.array([0], dtype=np.int8),
            conversion=np.array([0], dtype=np.int8),
        ),
    ]


def test_a_batch_by_hand() -> None:
    codes = np.array([100, 101, 102, 103, 104])
    batch = build_batch(small(), max_row=100, pad_id=99, attributes={"brand": codes})
    assert batch.input_ids.tolist() == [[10, 11, 20, 21, 22, 23, 24], [12, 25, 26, 27, 99, 99, 99]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 2, 2, 3], [0, 1, 2, 3, 0, 0, 0]]
    assert batch.segment_ids.tolist() == [[0, 0, 1, 1, 2, 3, 3], [0, 1, 1, 1, -1, -1, -1]]
    assert batch.candidate_tokens.tolist() == [[2, 3, -1], [4, -1, -1], [5, 6, -1], [8, 9, 10]]
    assert batch.slate_candidates.tolist() == [[0, 1, 2], [3, -1, -1]]
    assert batch.click.tolist() == batch.conversion.tolist() == [1.0, 0.0, 0.0, 0.0]
    assert batch.log_sampling_rate.tolist() == [-0.5, -0.5, -0.5, 0.0]
    assert batch.item.tolist() == [4, 0, 2, 1]
    assert batch.slate.tolist() == [0, 0, 0, 1]
    assert batch.row.tolist() == [7, 3]
    assert batch.attributes["brand"].tolist() == [104, 100, 102, 101]
    inputs = batch.model_inputs()
    assert inputs.pop("lengths") is batch.lengths and batch.lengths is not None
    assert [part.tolist() for part in (batch.lengths.prefix, batch.lengths.row, batch.lengths.candidate)] == [
        [2, 1], [0, 0, 0, 1], [2, 1, 2, 3]
    ]  # fmt: skip
    read = RowLengths.of(batch.segment_ids, batch.candidate_tokens)
    assert all(np.array_equal(getattr(read, name), value) for name, value in vars(batch.lengths).items())
    assert batch.tokens == 11 == replace(batch, lengths=None).tokens
    assert {t.dtype for t in inputs.values()} == {torch.int64}
    assert {batch.click.dtype, batch.conversion.dtype, batch.log_sampling_rate.dtype} == {torch.float32}


def test_a_long_slate_goes_on_in_rows_that_repeat_its_prefix() -> None:
    batch = build_batch(small(), max_row=5, pad_id=0)
    assert batch.input_ids.tolist() == [[10, 11, 20, 21, 22], [10, 11, 23, 24, 0], [12, 25, 26, 27, 0]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 2], [0, 1, 2, 3, 0], [0, 1, 2, 3, 0]]
    assert batch.segment_ids.tolist() == [[0, 0, 1, 1, 2], [0, 0, 1, 1, -1], [0, 1, 1, 1, -1]]
    assert batch.candidate_tokens.tolist() == [[2, 3, -1], [4, -1, -1], [7, 8, -1], [11, 12, 13]]
    assert batch.slate_candidates.tolist() == [[0, 1, 2], [3, -1, -1]]  # one slate still
    assert batch.slate.tolist() == [0, 0, 0, 1]


def test_a_candidate_longer_than_a_row_has_a_row_of_its_own() -> None:
    batch = build_batch(small(), max_row=1, pad_id=0)
    assert batch.input_ids.shape == (4, 4)
    assert batch.slate_candidates.tolist() == [[0, 1, 2], [3, -1, -1]]


@given(
    shapes=st.lists(
        st.tuples(st.integers(1, 6), st.lists(st.integers(1, 7), min_size=1, max_size=6)), min_size=1, max_size=4
    ),
    max_row=st.integers(1, 30),
    seed=st.integers(0, 1000),
)
def test_every_token_is_where_its_index_says(
    shapes: list[tuple[int, list[int]]], max_row: int, seed: int, make_slate: Callable[..., Slate]
) -> None:
    slates = [make_slate(seed + s, lengths, prefix, row=s) for s, (prefix, lengths) in enumerate(shapes)]
    batch = build_batch(slates, max_row, pad_id=0)
    flat = {name: getattr(batch, name).flatten().tolist() for name in ("input_ids", "position_ids", "segment_ids")}
    width = batch.input_ids.shape[1]
    candidates = [(slate, ids) for slate in slates for ids in slate.candidates]
    seen_segments = set()
    for (slate, ids), tokens in zip(candidates, batch.candidate_tokens.tolist(), strict=True):
        tokens = [token for token in tokens if token >= 0]
        assert [flat["input_ids"][t] for t in tokens] == ids
        length = len(slate.prefix)
        assert [flat["position_ids"][t] for t in tokens] == list(range(length, length + len(ids)))
        row = tokens[0] // width
        (segment,) = {flat["segment_ids"][t] for t in tokens}
        assert segment > 0
        assert (row, segment) not in seen_segments
        seen_segments.add((row, segment))
        start = row * width
        assert flat["input_ids"][start : start + length] == slate.prefix
        assert flat["position_ids"][start : start + length] == list(range(length))
        assert flat["segment_ids"][start : start + length] == [0] * length
    lengths = (batch.segment_ids >= 0).sum(1)
    for row in range(len(lengths)):
        alone = (batch.segment_ids[row] > 0).unique().numel() and batch.segment_ids[row].max() == 1
        assert lengths[row] <= max_row or alone
    assert sorted(batch.slate_candidates[batch.slate_candidates >= 0].tolist()) == list(range(len(candidates)))
    assert batch.slate[batch.slate_candidates[batch.slate_candidates >= 0]].tolist() == [
        s for s, slate in enumerate(slates) for _ in slate.candidates
    ]


def test_moving_to_a_device_moves_everything() -> None:
    ones = [np.ones(len(slate.item), np.float32) for slate in small()]
    rest = SlateRest(np.zeros(2, np.int64), np.zeros((2, 1), np.float32))
    slates = [
        replace(slate, labels={"basket": each}, weight=each, examination=each, rest=rest)
        for slate, each in zip(small(), ones, strict=True)
    ]
    batch = build_batch(slates, 100, 0, {"brand": np.arange(5)})
    batch = replace(batch, user_groups={"age": torch.zeros(len(slates), dtype=torch.int64)}).to("meta")
    assert isinstance(batch, SlateBatch)
    assert batch.features is None and batch.recall is None  # these slates have none
    assert batch.rest is not None
    named = [*batch.attributes.values(), *batch.labels.values()]
    named += [
        *batch.user_groups.values(),
        batch.rest.slate_candidates,
        batch.rest.prior,
        *batch.rest.attributes.values(),
    ]
    others = ("attributes", "labels", "features", "recall", "prior", "compared", "rest", "user_groups", "lengths")
    everything = [value for name, value in vars(batch).items() if name not in others]
    assert len(named) == 6 and all(value.device.type == "meta" for value in [*everything, *named])
