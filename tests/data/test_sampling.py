"""Which slates and candidates a process trains on: functions of seed and place alone."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise.common.errors import UserError
from equipoise.data import sampling
from equipoise.data.sampling import BatchOrder, keep_sampled, sample_candidates, sample_keys


def global_batch(number: int, processes: int, size: int, slates: int = 53, seed: int = 9) -> list[int]:
    orders = [BatchOrder(slates, size, processes, rank, seed) for rank in range(processes)]
    parts = [order.batch(number) for order in orders]
    assert len({epoch for epoch, _ in parts}) == 1
    assert all(len(rows) == size for _, rows in parts)
    return [int(row) for _, rows in parts for row in rows]


@pytest.mark.parametrize("number", [0, 3, 6, 7, 8, 100])
def test_processes_share_the_batch_that_one_would_have(number: int) -> None:
    one = global_batch(number, 1, 8)
    assert global_batch(number, 2, 4) == one
    assert global_batch(number, 4, 2) == one
    assert global_batch(number, 8, 1) == one


def test_an_epoch_sees_every_slate_at_most_once_and_the_next_in_another_order() -> None:
    order = BatchOrder(slates=53, batch_size=4, processes=2, rank=0, seed=9)
    assert order.per_epoch == 6
    epochs = []
    for epoch in range(3):
        seen = []
        for place in range(order.per_epoch):
            number = epoch * order.per_epoch + place
            assert order.batch(number)[0] == epoch
            seen += global_batch(number, 2, 4)
        assert len(set(seen)) == 48
        assert set(seen) <= set(range(53))
        epochs.append(seen)
    assert epochs[0] != epochs[1] != epochs[2]
    # The rest that is dropped is another one each time, so no slate is lost for good.
    assert len({*epochs[0], *epochs[1], *epochs[2]}) > 50


def test_any_batch_can_be_asked_for_at_any_time() -> None:
    forward = BatchOrder(53, 4, 2, 1, 9)
    in_order = [forward.batch(number)[1].tolist() for number in range(20)]
    for number in (13, 2, 19, 5, 6, 0):
        assert BatchOrder(53, 4, 2, 1, 9).batch(number)[1].tolist() == in_order[number]
        assert forward.batch(number)[1].tolist() == in_order[number]  # back and forth through the epochs
    assert BatchOrder(53, 4, 2, 1, 10).batch(0)[1].tolist() != in_order[0]


def test_a_split_that_fills_no_batch_is_refused() -> None:
    assert BatchOrder(8, 4, 2, 0, 0).per_epoch == 1
    with pytest.raises(
        UserError, match=r"train\.batch_size: 4 slates on each of 2 processes need 8, but .* has 7: lower"
    ):
        BatchOrder(7, 4, 2, 0, 0)


@given(st.lists(st.integers(0, 1), min_size=1, max_size=40), st.integers(1, 20), st.integers(0, 10**6))
def test_all_clicked_and_so_many_others_are_kept(clicks: list[int], negatives: int, seed: int) -> None:
    click = np.array(clicks, dtype=np.int8)
    kept, log_sampling_rate = sample_candidates(click, negatives, seed, 0, 5)
    unclicked = int((click == 0).sum())
    assert np.array_equal(kept, np.unique(kept))  # each once, in order
    assert set(np.flatnonzero(click)) <= set(kept.tolist())
    left = int((click[kept] == 0).sum())
    assert left == min(unclicked, negatives)
    assert log_sampling_rate == pytest.approx(math.log(left / unclicked) if unclicked else 0.0)
    again, _ = sample_candidates(click, negatives, seed, 0, 5)
    assert np.array_equal(kept, again)
    everything, rate = sample_candidates(click, None, seed, 0, 5)
    assert np.array_equal(everything, np.arange(len(click)))
    assert rate == 0.0


def test_every_unclicked_candidate_has_the_same_chance() -> None:
    click = np.array([0, 1, 0, 0, 0, 1])
    counts = np.zeros(6)
    draws = 4000
    for seed in range(draws):
        counts[sample_candidates(click, 2, seed, 1, 0)[0]] += 1
    assert counts[[1, 5]].tolist() == [draws, draws]
    # Half of the four, ± 4.5 standard deviations.
    assert np.abs(counts[[0, 2, 3, 4]] / draws - 0.5).max() < 4.5 * 0.5 / draws**0.5


def test_steps_and_epochs_are_counted_in_whole_micro_batches() -> None:
    order = BatchOrder(slates=53, batch_size=4, processes=2, rank=0, seed=9)
    assert order.steps(1.0, 1) == 6
    assert order.steps(2.0, 4) == 2  # the rest of an epoch fills no step
    assert order.steps(1.5, 2) == 4
    assert order.steps(0.01, 4) == 1
    assert order.epoch_at(9) == 1.5


SLATES = st.lists(st.lists(st.integers(0, 1), max_size=12), min_size=1, max_size=8)


@given(SLATES, st.integers(1, 5), st.integers(0, 2**31), st.integers(0, 50), st.integers(0, 2**40))
def test_a_slate_alone_keeps_what_it_keeps_among_others(
    slates: list[list[int]], negatives: int, seed: int, epoch: int, row: int
) -> None:
    click = np.concatenate([np.array(slate, dtype=np.int8) for slate in slates])
    first = np.cumsum([0, *map(len, slates)])
    rows = row + 3 * np.arange(len(slates))
    kept = keep_sampled(click, first, rows, negatives, seed, epoch)
    for number, slate in enumerate(slates):
        alone, _ = sample_candidates(np.array(slate, dtype=np.int8), negatives, seed, epoch, int(rows[number]))
        assert np.flatnonzero(kept[first[number] : first[number + 1]]).tolist() == alone.tolist()


def test_equal_keys_keep_the_earlier_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys of 64 bits hardly ever meet; here they do, and not one candidate too many is kept."""
    few = lambda seed, epoch, rows, places: (np.asarray(places) % 2).astype(np.uint64) << np.uint64(60)  # noqa: E731
    monkeypatch.setattr(sampling, "sample_keys", few)
    click = np.array([0, 0, 1, 0, 0, 0, 0, 0, 0, 0])
    kept = keep_sampled(click, np.array([0, 7, 10]), np.array([0, 1]), 2, 0, 0)
    # Even places have the smaller key: 0, 4, 6 of the first slate, 0 and 2 of the second.
    assert np.flatnonzero(kept).tolist() == [0, 2, 4, 7, 9]


def test_keys_are_the_same_on_every_machine() -> None:
    keys = sample_keys(17, 2, np.array([0, 1, 2**40]), np.array([0, 5, 511]))
    assert keys.dtype == np.uint64
    # From whole numbers of Python, modulo 2^64.
    assert keys.tolist() == [17778108046041321950, 273406712795084224, 965848305297519061]


def test_what_is_kept_changes_with_seed_epoch_and_row() -> None:
    click = np.zeros(40, dtype=np.int8)
    draws = [(3, 0, 0), (4, 0, 0), (3, 1, 0), (3, 0, 1), (3, 1, 1)]
    kept = {tuple(sample_candidates(click, 20, *place)[0].tolist()) for place in draws}
    assert len(kept) == len(draws)


def test_draws_of_neighbouring_rows_and_epochs_are_independent() -> None:
    rows, size = 3000, 8
    click, first = np.zeros(rows * size, dtype=np.int8), np.arange(rows + 1) * size
    draws = [keep_sampled(click, first, np.arange(rows), 4, 1, epoch).reshape(rows, size) for epoch in (0, 1)]
    for one, two in [(draws[0][:-1], draws[0][1:]), (draws[0], draws[1])]:
        together = (one & two).mean(0)
        assert np.abs(together - 0.25).max() < 5 * (0.25 * 0.75 / rows) ** 0.5
    for draw in draws:
        assert np.abs(draw.mean(0) - 0.5).max() < 5 * 0.5 / rows**0.5


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 8])
def test_other_processes_share_the_batches_that_a_run_began_with(processes: int) -> None:
    began = [BatchOrder(53, 4, 2, rank, 9) for rank in range(2)]
    now = [BatchOrder(53, 4, processes, rank, 9, parts=2) for rank in range(processes)]
    for number in range(15):
        whole = np.concatenate([order.batch(number)[1] for order in began])
        shares = [order.batch(number)[1] for order in now]
        assert np.array_equal(np.concatenate(shares), whole)
        assert min(map(len, shares)) >= 1 and {order.batch(number)[0] for order in now} == {began[0].batch(number)[0]}
    assert now[0].steps(2.0, 1) == began[0].steps(2.0, 1) and now[0].epoch_at(7) == began[0].epoch_at(7)


def test_more_processes_than_slates_are_refused() -> None:
    with pytest.raises(UserError, match="launch at most 8"):
        BatchOrder(53, 4, 9, 0, 9, parts=2)
