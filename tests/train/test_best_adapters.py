"""The best adapters of a run: which are kept, by all processes alike, and what a resumed run forgets."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from equipoise.common.errors import UserError
from equipoise.modeling.adapter_store import TENSORS, AdapterInfo
from equipoise.train.best_adapters import MEASURE, BestAdapters, Selection, read_best
from equipoise.train.weight_average import WeightAverage
from equipoise.train.world import World

INFO = AdapterInfo("base", "hash", 1, {"ctr": 1}, [], {}, {}, {})


def offered(best: BestAdapters, *validations: tuple[int, float]) -> list[int]:
    """Offer adapters whose only number is their step; returns the steps that were gathered."""
    asked: list[int] = []

    def tensors(step: int) -> dict[str, torch.Tensor]:
        asked.append(step)
        return {"a": torch.full((1,), float(step))}

    for step, value in validations:
        best.offer(step, {MEASURE: value}, lambda step=step: tensors(step), INFO)
    return asked


def kept(run: Path) -> float:
    return load_file(run / "best" / TENSORS)["a"].item()


def test_the_highest_is_kept_and_the_first_of_equals(tmp_path: Path) -> None:
    best = BestAdapters(tmp_path, World())
    asked = offered(best, (1, float("nan")), (2, 0.6), (3, 0.7), (4, 0.7), (5, 0.65))
    assert asked == [2, 3] and kept(tmp_path) == 3.0
    assert read_best(tmp_path) == {"measure": "valid/ctr/gauc", "value": 0.7, "step": 3} == best.known
    best.offer(6, {"valid/other": 1.0}, dict, INFO)
    assert kept(tmp_path) == 3.0


def test_a_resumed_run_goes_on_from_what_it_will_not_validate_again(tmp_path: Path) -> None:
    offered(BestAdapters(tmp_path, World()), (3, 0.7))
    again = BestAdapters(tmp_path, World())
    again.forget_after(3)
    assert offered(again, (6, 0.6)) == [] and kept(tmp_path) == 3.0
    again.forget_after(2)
    assert read_best(tmp_path) is None and offered(again, (3, 0.5)) == [3]


def test_processes_decide_alike(tmp_path: Path, run_world: Any) -> None:
    def work(world: World) -> tuple[list[int], Any]:
        best = BestAdapters(tmp_path, world)
        return offered(best, (1, 0.5), (2, 0.4), (3, 0.6)), best.known

    (first, known), other = run_world(2, work)
    assert (first, known) == other == ([1, 3], {"measure": MEASURE, "value": 0.6, "step": 3})
    assert kept(tmp_path) == 3.0


def test_nothing_was_kept(tmp_path: Path) -> None:
    assert read_best(tmp_path) is None
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "best.json").write_text("{")
    assert read_best(tmp_path) is None and BestAdapters(tmp_path, World()).known is None
    with pytest.raises(FileNotFoundError):
        kept(tmp_path)


def test_lower_is_better_where_it_is_and_sums_weigh(tmp_path: Path) -> None:
    loss = BestAdapters(tmp_path / "loss", World(), Selection.of("valid/ctr/log_loss"))
    for step, value in enumerate((0.5, 0.4, 0.45)):
        loss.offer(step, {"valid/ctr/log_loss": value}, lambda: {"a": torch.ones(1)}, INFO)
    assert loss.known == {"measure": "valid/ctr/log_loss", "value": 0.4, "step": 1}
    both = Selection.of({"valid/ctr/auc": 1.0, "valid/ctr/ece": 2.0})
    assert both.name == "1 valid/ctr/auc -2 valid/ctr/ece"
    good, bad = {"valid/ctr/auc": 0.7, "valid/ctr/ece": 0.01}, {"valid/ctr/auc": 0.71, "valid/ctr/ece": 0.02}
    assert both.value(good) == pytest.approx(0.68) and both.gain(both.value(good), both.value(bad)) > 0
    best = BestAdapters(tmp_path / "both", World(), both)
    best.offer(1, {"valid/ctr/auc": 0.7}, dict, INFO)
    assert best.known is None
    with pytest.raises(UserError, match="neither more nor less"):
        Selection.of("valid/ctr/predicted")


def test_waiting_counts_validations_and_another_measure_starts_again(tmp_path: Path) -> None:
    best = BestAdapters(tmp_path, World())
    assert best.waited(100, 10) == 0
    offered(best, (0, 0.6), (10, 0.5), (20, 0.4))
    assert best.waited(20, 10) == 2 and best.waited(25, 10) == 2
    other = BestAdapters(tmp_path, World(), Selection.of("valid/ctr/auc"))
    other.forget_after(20)
    assert other.known is None and read_best(tmp_path) is None


def test_average_keeps_the_last_and_gives_their_mean(tmp_path: Path) -> None:
    average = WeightAverage(tmp_path, World(), 2)
    for step in (0, 5, 10):
        average.keep(step, {"a": torch.full((2,), float(step))})
    assert average.steps() == [5, 10] and average.mean()["a"].tolist() == [7.5, 7.5]
    average.forget_after(5)
    assert average.steps() == [5]
    average.forget_after(-1)
    assert average.steps() == [] and not (tmp_path / "average").exists()
