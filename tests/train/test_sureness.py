"""What is surely better than the start: beyond chance and the level, as the best adapters of a run are chosen."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from equipoise.modeling.adapter_store import AdapterInfo
from equipoise.train.best_adapters import BestAdapters, Selection, read_best
from equipoise.train.sureness import GROUPS, best_level, groups_of, surely_above
from equipoise.train.validation import Validation
from equipoise.train.world import World

INFO = AdapterInfo("base", "hash", 1, {"ctr": 1}, [], {}, {}, {})
LOSS = "valid/ctr/log_loss"


@pytest.fixture(scope="module")
def said() -> Callable[..., Validation]:
    """Forty requests of ten candidates whose true log-odds, times `slope` plus `level`, are what a model says."""
    generator = np.random.default_rng(3)
    truth = generator.normal(-1.0, 1.5, 400)
    click = (generator.random(400) < 1 / (1 + np.exp(-truth))).astype(np.int8)
    convert = (click * (generator.random(400) < 0.4)).astype(np.int8)
    request = np.repeat(np.arange(40), 10)

    def make(slope: float = 1.0, level: float = 0.0, noise: float = 0.0, weighted: bool = False) -> Validation:
        odds = slope * truth + level + noise * np.random.default_rng(5).normal(size=400)
        scores = {"click": click, "conversion": convert, "row": request, "ctr": odds, "cvr": 0.3 * odds}
        scores |= {"data:weight": np.where(request % 2, 3.0, 0.5)} if weighted else {}
        return Validation(scores, request.astype(str), {}, {})

    return make


@pytest.mark.parametrize("weighted", [False, True])
def test_at_the_best_level_clicks_and_conversions_are_predicted_as_often_as_seen(
    said: Callable[..., Validation], weighted: bool
) -> None:
    found = said(0.7, level=2.0, weighted=weighted)
    moved = found.at_best_level()
    assert moved.metrics()["valid/ctr/predicted"] == pytest.approx(moved.metrics()["valid/ctr/observed"], abs=1e-9)
    shift = moved.scores["ctr"] - found.scores["ctr"]
    assert np.ptp(shift) == pytest.approx(0, abs=1e-12) and shift[0] < -1
    clicked = moved.scores["click"] == 1
    weight = moved.scores.get("data:weight", np.ones(400))[clicked]
    pcvr = 1 / (1 + np.exp(-moved.scores["cvr"][clicked]))
    assert np.average(pcvr, weights=weight) == pytest.approx(
        np.average(moved.scores["conversion"][clicked], weights=weight)
    )
    assert said(1.0, level=-3.0, weighted=weighted).at_best_level().metrics() == pytest.approx(
        said(1.0, weighted=weighted).at_best_level().metrics(), abs=1e-9
    )


def test_labels_that_are_all_alike_have_a_bounded_level() -> None:
    assert 5 < best_level(np.zeros(4), np.ones(4)) <= 10 and -10 <= best_level(np.zeros(4), np.zeros(4)) < -5


def test_groups_hold_whole_requests_and_are_left_out_in_turn(said: Callable[..., Validation]) -> None:
    assert groups_of(np.array([7, 7, 3, 9])).tolist() == [1, 1, 0, 2]
    found = said()
    left_out = found.without_each_group(lambda metrics: metrics[LOSS])
    assert len(left_out) == GROUPS
    kept = ~np.isin(found.scores["row"], [4, 24])
    rest = Validation({n: v[kept] for n, v in found.scores.items()}, found.user[kept], {}, {})
    assert left_out[4] == rest.metrics()[LOSS]


def test_a_gain_by_hand_and_what_is_undefined() -> None:
    # Two groups: mean 2, error √(1/2 · 2 · d²) = d, and Student's t with one degree of freedom is 12.7.
    assert surely_above([1.9, 2.1]) and not surely_above([1.8, 2.2])
    assert not surely_above([-1.9, -2.1]) and not surely_above([0.0, 0.0])
    assert not surely_above([2.0]) and not surely_above([]) and not surely_above([2.0, float("nan")])


def test_chance_is_taken_for_a_gain_in_one_case_of_forty() -> None:
    generator = np.random.default_rng(0)
    taken = 0
    for _ in range(1000):
        gains = generator.standard_t(4, size=(GROUPS, 5)).mean(1)
        taken += surely_above([(gains.sum() - each) / (GROUPS - 1) for each in gains])
    assert 10 <= taken <= 45


def offered(best: BestAdapters, step: int, found: Validation) -> bool:
    return best.offer(step, found.metrics(), lambda: {"a": torch.full((1,), float(step))}, INFO, found)


def test_a_later_step_is_kept_only_where_it_is_surely_better(
    said: Callable[..., Validation], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "equipoise")
    start, level, chance, better = said(0.8, 0.6, 0.6), said(0.8, 0.1, 0.6), said(0.801, 0.55, 0.6), said()
    for found in (level, chance, better):
        assert found.metrics()[LOSS] < start.metrics()[LOSS]
    best = BestAdapters(tmp_path, World(), Selection.of(LOSS), surely=True)
    assert offered(best, 0, start) and not offered(best, 1, level) and not offered(best, 2, chance)
    assert caplog.text.count(f"{LOSS} is not surely better than at the start") == 2
    again = BestAdapters(tmp_path, World(), Selection.of(LOSS), surely=True)  # a resumed run
    again.forget_after(2)
    assert not offered(again, 3, level) and offered(again, 4, better)
    known = read_best(tmp_path)
    assert known is not None and known["step"] == 4 and known["start"]["requests"] == 40
    again.forget_after(3)  # and one that goes on from before the best: the start is still what is to be beaten
    assert read_best(tmp_path) is None and not offered(again, 4, level) and offered(again, 4, better)
    again.forget()  # a new run in the same folder
    assert offered(again, 0, level)


def test_other_requests_than_those_of_the_start_prove_nothing(said: Callable[..., Validation], tmp_path: Path) -> None:
    best, start, better = BestAdapters(tmp_path, World(), surely=True), said(0.1, noise=1.0), said()
    assert offered(best, 0, start)
    kept = better.scores["row"] < 30
    fewer = Validation({n: v[kept] for n, v in better.scores.items()}, better.user[kept], {}, {})
    assert not offered(best, 1, fewer) and offered(best, 2, better)


def test_without_a_start_that_is_good_any_better_step_is_kept(said: Callable[..., Validation], tmp_path: Path) -> None:
    best = BestAdapters(tmp_path, World(), Selection.of(LOSS))
    assert offered(best, 0, said(0.8, 0.6, 0.6)) and offered(best, 1, said(0.8, 0.1, 0.6))
    assert best.known == {"measure": LOSS, "value": pytest.approx(said(0.8, 0.1, 0.6).metrics()[LOSS]), "step": 1}
