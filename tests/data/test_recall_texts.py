"""Which shoppers and items meet in a batch for recall, with their texts and their chances."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from equipoise.common.errors import UserError
from equipoise.data.ragged import Ragged
from equipoise.data.recall_texts import Positives, RecallDraws, Texts, log_times


def ragged(parts: list[list[int]]) -> Ragged:
    values = np.array([x for part in parts for x in part], dtype=np.int32)
    return Ragged(values, np.cumsum([0, *map(len, parts)]))


def tokens(**more: Any) -> Any:
    """Four slates over five items; slate 2 has no click. Encoder ids: 101 starts, 102 ends."""
    cache = SimpleNamespace(
        items=ragged([[10], [11, 12], [13], [14, 15, 16], [17]]),
        start=np.array([101], dtype=np.int32),
        candidate_end=np.array([102], dtype=np.int32),
        room=2,
        pad_id=0,
    )
    return SimpleNamespace(
        cache=cache,
        prefix=ragged([[101, 50, 102], [101, 51, 52, 102], [101, 53, 102], [101, 54, 102]]),
        first=np.array([0, 3, 5, 7, 10]),
        item=np.array([0, 1, 2, 1, 3, 0, 2, 4, 1, 0], dtype=np.int32),
        click=np.array([1, 1, 0, 1, 0, 0, 0, 0, 0, 1], dtype=np.int8),
        **{"bought": None, "times": None, "weight": None, **more},
    )


def test_positives_are_the_clicked_items() -> None:
    positives = Positives(tokens())
    assert positives.rows.tolist() == [0, 1, 3]
    assert [positives.of(place).tolist() for place in range(3)] == [[0, 1], [1], [0]]
    assert positives.counts.tolist() == [2, 2, 0, 0, 0]
    np.testing.assert_allclose(positives.chances(np.arange(3)), [(0.5 + 1) / 3, (0.5 + 1) / 3, 0, 0, 0])
    np.testing.assert_allclose(positives.chances(np.array([0, 2])), [(0.5 + 1) / 2, 0.5 / 2, 0, 0, 0])
    np.testing.assert_allclose(np.exp(positives.log_popularity()), np.array([2.5, 2.5, 0.5, 0.5, 0.5]) / 6.5, rtol=1e-6)


def test_texts_are_the_prefix_without_its_start_and_the_item_at_its_limit() -> None:
    held = tokens()
    texts = Texts(held.cache, max_row=64)
    assert texts.shopper(held.prefix[1]).tolist() == [51, 52, 102]
    assert texts.item(3).tolist() == [14, 15, 102]
    inputs = texts.inputs([texts.shopper(held.prefix[0]), texts.item(0)])
    assert inputs["input_ids"].tolist() == [[101, 50, 102, 10, 102]]
    assert inputs["segment_ids"].tolist() == [[0, 1, 1, 2, 2]]
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 1, 2]]


def test_draw_is_a_function_of_number_and_rank_and_marks_other_positives() -> None:
    held = tokens(bought=ragged([[1, 4], [], [], [0]]), times=ragged([[2, 7], [], [], [1]]))
    draws = RecallDraws(held, shoppers=3, negatives=4, max_row=64, seed=1, rank=0)
    for number in range(20):
        batch, again = (draws.draw(number, lambda row: held) for _ in range(2))
        assert torch.equal(batch.texts["input_ids"], again.texts["input_ids"])
        counted = batch.log_popularity.exp() * 6.5
        taken = counted[batch.target]
        assert (taken > 2).all()  # items 0 and 1 alone have clicks
        rows = batch.log_times.shape[0]
        assert not batch.also[torch.arange(rows), batch.target].any()
        # Slate 0 alone has two positives: where both are there, its other one does not compete.
        assert int(batch.also.sum()) == int((counted > 2).sum() == 2)
    others = RecallDraws(held, shoppers=3, negatives=4, max_row=64, seed=1, rank=1)
    assert any(
        not torch.equal(draws.draw(n, lambda row: held).target, others.draw(n, lambda row: held).target)
        for n in range(20)
    )


def test_times_bought_are_those_of_the_slate() -> None:
    held = tokens(bought=ragged([[1, 4], [], [], [0]]), times=ragged([[2, 7], [], [], [1]]))
    np.testing.assert_allclose(log_times(held, 0, np.array([0, 1, 3, 4])), np.log([1, 3, 1, 8]), rtol=1e-6)
    assert log_times(held, 1, np.array([0, 1])).tolist() == [0, 0]
    assert log_times(tokens(), 0, np.array([0, 1])).tolist() == [0, 0]


def test_chance_of_competing_is_what_draws_show() -> None:
    held = tokens()
    draws = RecallDraws(held, shoppers=2, negatives=2, max_row=64, seed=3, rank=0)
    seen = np.zeros(5)
    for number in range(3000):
        batch = draws.draw(number, lambda row: held)
        ids = batch.texts["input_ids"][batch.texts["segment_ids"] > 2]  # what follows the two shoppers
        seen += np.isin([10, 11, 13, 14, 17], ids.numpy())
    # Shoppers are drawn without repetition, the formula takes them as independent: close, not equal.
    np.testing.assert_allclose(seen / 3000, np.exp(draws.log_sampled), atol=0.07)
    np.testing.assert_allclose((seen / 3000)[2:], np.exp(draws.log_sampled[2:]), atol=0.03)


def test_what_stands_beside_is_asked_of_the_drawn_requests_alone() -> None:
    held = tokens()

    def beside(tokens: Any, row: int) -> np.ndarray:
        return np.arange(5, dtype=np.float32) + 10 * row

    draws = RecallDraws(held, 2, 4, max_row=64, seed=1, rank=0, among=np.array([0, 2]), beside=beside)
    for number in range(10):
        batch = draws.draw(number, lambda row: held)
        assert sorted(int(each // 10) for each in batch.beside[:, 0]) == [0, 3]  # slates 0 and 3, never 1
        assert torch.equal(batch.beside[0] % 10, batch.beside[1] % 10)
    with pytest.raises(UserError, match="only 2 of the latest training requests"):
        RecallDraws(held, 3, 4, max_row=64, seed=1, rank=0, among=np.array([0, 2]), beside=beside)


def test_too_few_requests_with_a_click_are_refused() -> None:
    with pytest.raises(UserError, match="only 3 training requests have a click"):
        RecallDraws(tokens(), shoppers=4, negatives=2, max_row=64, seed=1, rank=0)


def test_start_is_kept_in_the_cache(make_prepared: Callable[..., Path], wordpiece: Any) -> None:
    from tests.data.test_token_cache import write

    cache = write(make_prepared(), wordpiece)
    assert cache.start.tolist() == [wordpiece.cls_token_id]
    assert all(prefix[0] == wordpiece.cls_token_id for prefix in (cache.split("train").prefix[0],))


def test_a_positive_has_the_weight_of_its_impression() -> None:
    weight = np.arange(10, dtype=np.float32)
    weighed = tokens(weight=weight)
    draws = RecallDraws(weighed, 2, 3, 64, seed=1, rank=0)
    for number in range(20):
        batch = draws.draw(number, lambda row: weighed)
        plain = RecallDraws(tokens(), 2, 3, 64, seed=1, rank=0).draw(number, lambda row: tokens())
        assert batch.weight is not None and plain.weight is None
        assert torch.equal(batch.target, plain.target) and batch.to("cpu").weight is not None
        assert set(batch.weight.tolist()) <= {0.0, 1.0, 3.0, 9.0}  # the places of the clicks
