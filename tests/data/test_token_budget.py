"""The plan of an epoch by tokens: what it promises for every split, and that it is a function of its place alone."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise.common.errors import UserError
from equipoise.configs.schema import TokensConfig
from equipoise.data.slate_set import SlateSet, TrainBatches
from equipoise.data.token_budget import BudgetOrder, balanced_split, plan_epoch, token_groups
from equipoise.data.token_cache import TokenCache
from equipoise.data.token_writer import write_token_cache
from equipoise.data.tokens import SlateTokenizer

COSTS = st.lists(st.integers(1, 100), min_size=1, max_size=120)


def steady(costs: list[int]) -> Callable[[int], np.ndarray]:
    """Costs that change a little from epoch to epoch, as sampling makes them."""
    array = np.array(costs, dtype=np.int64)
    return lambda epoch: array + (np.arange(len(array)) * 7 + epoch * 3) % 5


def test_longest_first_by_hand() -> None:
    shares = balanced_split([5, 4, 3, 3, 3], 2, 10)
    assert shares == [[0, 3], [1, 2, 4]]
    assert balanced_split([5, 4, 3, 3, 3], 2, 9) is None
    assert balanced_split([50, 4, 3], 2, 9) == [[0], [1, 2]]  # longer than the budget, and alone
    assert balanced_split([50, 6, 4], 2, 9) is None


@given(COSTS, st.integers(1, 6), st.integers(1, 400), st.integers(0, 99))
def test_what_every_plan_promises(costs: list[int], processes: int, budget: int, seed: int) -> None:
    array = np.array(costs, dtype=np.int64)
    order = np.random.default_rng(seed).permutation(len(costs))
    plan = plan_epoch(order, array, processes, budget)
    assert len(set(plan.rows.tolist())) == len(plan.rows)  # each slate at most once
    assert len(plan.rows) + plan.dropped == len(costs)
    assert plan.dropped < processes  # all but the reported leftovers
    assert set(plan.rows.tolist()) == set(order[: len(plan.rows)].tolist())
    assert plan.oversize == sum(cost > budget for cost in costs)
    sizes = np.diff(plan.starts)
    assert (sizes > 0).all()  # every process has a slate
    assert len(sizes) % processes == 0
    for start, stop in zip(plan.starts, plan.starts[1:], strict=False):
        share = array[plan.rows[start:stop]]
        assert share.sum() <= budget or len(share) == 1
    if len(sizes):
        loads = np.add.reduceat(array[plan.rows], plan.starts[:-1]).reshape(-1, processes)
        assert plan.imbalance == pytest.approx((loads.max(1) / loads.mean(1)).mean())
        # A micro-batch is full: the next slate would not have fitted, had the split been tried with it.
        counts = sizes.reshape(-1, processes).sum(1)
        at = 0
        for count in counts[:-1]:
            wider = balanced_split(array[order[at : at + count + 1]].tolist(), processes, budget)
            fits = np.minimum(array[order[at : at + count + 1]], budget).sum() <= processes * budget
            assert wider is None or not fits
            at += count


@given(COSTS, st.integers(1, 5), st.integers(20, 400), st.integers(0, 99))
def test_all_processes_share_one_plan(costs: list[int], processes: int, budget: int, seed: int) -> None:
    if len(costs) < processes:
        with pytest.raises(UserError, match="fewer slates than"):
            BudgetOrder(steady(costs), budget, processes, 0, seed)
        return
    orders = [BudgetOrder(steady(costs), budget, processes, rank, seed) for rank in range(processes)]
    for number in range(orders[0].count(0) + 2):
        parts = [order.batch(number) for order in orders]
        assert len({epoch for epoch, _ in parts}) == 1
        epoch = parts[0][0]
        rows = [row for _, share in parts for row in share.tolist()]
        assert len(set(rows)) == len(rows)
        for _, share in parts:
            assert 0 < steady(costs)(epoch)[share].sum() <= budget or len(share) == 1
        place = number - sum(orders[0].count(e) for e in range(epoch))
        plan = orders[0].plan(epoch)
        first = place * processes
        assert rows == plan.rows[plan.starts[first] : plan.starts[first + processes]].tolist()


@given(COSTS, st.integers(1, 3), st.integers(20, 300), st.integers(0, 99), st.data())
def test_any_number_can_be_asked_for_at_any_time(
    costs: list[int], processes: int, budget: int, seed: int, data: st.DataObject
) -> None:
    if len(costs) < processes:
        return
    forward = BudgetOrder(steady(costs), budget, processes, processes - 1, seed)
    in_order = [(epoch, rows.tolist()) for epoch, rows in map(forward.batch, range(40))]
    for _ in range(5):
        number = data.draw(st.integers(0, 39))
        fresh = BudgetOrder(steady(costs), budget, processes, processes - 1, seed)
        epoch, rows = fresh.batch(number)
        assert (epoch, rows.tolist()) == in_order[number]
        epoch, rows = forward.batch(number)  # back and forth through the epochs
        assert (epoch, rows.tolist()) == in_order[number]


def test_epochs_and_seeds_differ_and_epochs_are_counted() -> None:
    costs = np.random.default_rng(1).integers(50, 500, 300).tolist()
    order = BudgetOrder(steady(costs), 2000, 2, 0, seed=4)
    other = BudgetOrder(steady(costs), 2000, 2, 0, seed=5)
    first, second = order.plan(0), order.plan(1)
    assert first.rows[:20].tolist() != second.rows[:20].tolist()
    assert first.rows[:20].tolist() != other.plan(0).rows[:20].tolist()
    counts = [order.count(epoch) for epoch in range(3)]
    assert [order.batch(n)[0] for n in (0, counts[0] - 1, counts[0], sum(counts[:2]) - 1, sum(counts[:2]))] == [
        0, 0, 1, 1, 2,
    ]  # fmt: skip
    assert order.epoch_at(0) == 0.0
    assert order.epoch_at(counts[0]) == 1.0
    assert order.epoch_at(counts[0] + 3) == pytest.approx(1 + 3 / counts[1])
    assert order.steps(1.0, 1) == counts[0]
    assert order.steps(2.0, 3) == (counts[0] + counts[1]) // 3
    assert order.steps(1.5, 1) == counts[0] + int(0.5 * counts[1])
    assert order.steps(0.001, 4) == 1


def test_processes_get_nearly_the_same_and_the_budget_is_used() -> None:
    costs = np.random.default_rng(2).integers(200, 1500, 4000)
    plan = plan_epoch(np.arange(4000), costs, 8, 16384)
    loads = np.add.reduceat(costs[plan.rows], plan.starts[:-1]).reshape(-1, 8)
    assert plan.imbalance < 1.02
    assert loads[:-1].mean() > 0.96 * 16384
    assert (loads[:-1].max(1) / loads[:-1].mean(1)).max() < 1.1


def test_the_sampled_tokens_keep_the_budget(make_prepared: Callable[..., Path], wordpiece: Any) -> None:
    """From texts to tensors: what a process is given has at most max_tokens real tokens, and what the plan said."""
    folder = make_prepared(slates=60)
    limits = TokensConfig(max_prefix=40, max_candidate=24)
    write_token_cache(
        folder / "tokens" / "key", folder, SlateTokenizer(wordpiece, limits, True, []), lambda stage, share: None
    )
    slates = SlateSet(folder, "train", TokenCache(folder / "tokens" / "key"))
    costs = partial(slates.tokens.costs, negatives=2, seed=7)
    orders = [BudgetOrder(costs, 300, 2, rank, 7) for rank in range(2)]
    ranks = [TrainBatches(slates, order, 2, 4000, {}) for order in orders]
    seen: dict[int, list[int]] = {0: [], 1: []}
    for number in range(orders[0].count(0) + orders[0].count(1)):
        for batches, order in zip(ranks, orders, strict=True):
            epoch, rows = order.batch(number)
            batch = batches[number]
            assert batch.row.tolist() == rows.tolist()
            tokens = int((batch.segment_ids >= 0).sum())
            assert tokens == costs(epoch)[rows].sum()
            assert tokens <= 300
            seen[epoch] += rows.tolist()
    for rows in seen.values():
        assert 59 <= len(rows) == len(set(rows)) <= 60


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 120))
def test_token_groups_hold_every_slate_once_the_longest_first(costs: list[int], most: int) -> None:
    groups = token_groups(costs, most)
    assert sorted(index for group in groups for index in group) == list(range(len(costs)))
    assert all(group and (sum(costs[i] for i in group) <= most or len(group) == 1) for group in groups)
    lengths = [costs[index] for group in groups for index in group]
    assert lengths == sorted(lengths, reverse=True)


def test_token_groups_by_hand() -> None:
    assert token_groups([10, 50, 20, 30, 120], 100) == [[4], [1, 3, 2], [0]]
    assert token_groups([], 100) == []


@pytest.mark.parametrize("processes", [1, 2, 3, 6])
def test_other_processes_share_the_plan_that_a_run_began_with(processes: int) -> None:
    costs = np.random.default_rng(2).integers(20, 90, size=200)
    began = [BudgetOrder(steady(costs), 400, 3, rank, 7) for rank in range(3)]
    now = [BudgetOrder(steady(costs), 400, processes, rank, 7, parts=3) for rank in range(processes)]
    assert now[0].count(0) == began[0].count(0) and now[0].steps(1.5, 2) == began[0].steps(1.5, 2)
    for number in range(began[0].count(0) + 2):
        whole = np.concatenate([order.batch(number)[1] for order in began])
        assert np.array_equal(np.concatenate([order.batch(number)[1] for order in now]), whole)


def test_more_processes_than_a_planned_batch_has_slates_are_refused() -> None:
    order = BudgetOrder(steady(np.full(20, 100)), 100, 7, 0, 7, parts=2)
    with pytest.raises(UserError, match="launch at most 2"):
        order.batch(0)
