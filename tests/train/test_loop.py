"""The loop in one process: one backward per micro-batch, and what a non-finite loss may and may not do."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch.utils.checkpoint import CheckpointError

from equipoise.common.errors import DivergedError, UserError
from equipoise.configs.objectives import ObjectivesConfig
from equipoise.configs.schema import RunConfig
from equipoise.data.batches import Slate, SlateBatch, build_batch
from equipoise.data.sampling import BatchOrder
from equipoise.modeling.adapters import adapter_of
from equipoise.modeling.model import SlateModel
from equipoise.train.checkpoint import TrainingState
from equipoise.train.describe import step_line
from equipoise.train.flat_adamw import FlatAdamW
from equipoise.train.loop import Hooks, Loop
from equipoise.train.objectives.base import Objective, Step
from equipoise.train.objectives.registry import build_objectives
from equipoise.train.parameters import optimizer_groups
from equipoise.train.world import World


class FixedBatches:
    """Four batches over and over, in the shape of `TrainBatches`."""

    def __init__(self, batches: list[SlateBatch]) -> None:
        self.batches = batches
        self.order = BatchOrder(slates=len(batches), batch_size=1, processes=1, rank=0, seed=0)

    def __getitem__(self, number: int) -> SlateBatch:
        return self.batches[number % len(self.batches)]


def _settings(balancing: dict[str, Any] | None = None, **train: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "loop",
            "output": "unused",
            "data": {"folder": "unused", "source": "complete_journey"},
            "backbone": {"path": "unused"},
            "objectives": {"ctr": {}, "cvr": {}, "diversity": {"attributes": ["category"]}},
            "balancing": {"method": "mgda", **(balancing or {})},
            "train": {"max_steps": 4, "lr": 1e-2, "warmup": 0.0, "log_every": 1, **train},
        }
    )


@pytest.fixture
def make_loop(
    make_model: Callable[..., SlateModel], make_slate: Callable[..., Slate]
) -> Callable[..., tuple[Loop, SlateModel, dict[str, Objective], list[dict[str, float]]]]:
    def build(
        balancing: dict[str, Any] | None = None, **train: Any
    ) -> tuple[Loop, SlateModel, dict[str, Objective], list[dict[str, float]]]:
        config = _settings(balancing, **train)
        model = make_model("llama")
        objectives = build_objectives(ObjectivesConfig.model_validate(config.objectives.model_dump()))
        batches = []
        for number in range(4):
            batch = build_batch([make_slate(10 * number + s, [3, 4, 2, 5], row=s) for s in range(3)], 64, 0)
            categories = {"category": torch.arange(batch.click.numel()) % 2}
            batches.append(SlateBatch(**{**vars(batch), "attributes": categories}))
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=config.train.accumulate)
        optimizer = FlatAdamW(optimizer_groups(model, config.train), weight_decay=0.0)
        wrapped, optimizer = accelerator.prepare(model, optimizer)
        log: list[dict[str, float]] = []
        hooks = Hooks(lambda step, values: log.append(values), lambda step: None, lambda p: None, lambda step: None)
        arguments = (config, accelerator, wrapped, optimizer, objectives, FixedBatches(batches), World(), hooks)
        return Loop(*arguments), model, objectives, log  # type: ignore[arg-type]

    return build


def _snapshot(model: SlateModel) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def _moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], part: str) -> bool:
    names = [n for n in before if adapter_of(n) == part or n.startswith(f"heads.{part}.")]
    assert names
    return any(not torch.equal(before[name], after[name]) for name in names)


def test_one_backward_per_micro_batch(make_loop: Any) -> None:
    loop, _, _, log = make_loop(accumulate=2, max_steps=3)
    loop.run(TrainingState())
    assert loop.balancer.solves == 6
    assert len(log) == 3


def test_a_non_finite_loss_stays_alone(make_loop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, model, objectives, log = make_loop(max_steps=1)
    healthy = type(objectives["cvr"]).loss

    def poisoned(self: Any, step: Step) -> torch.Tensor:
        return healthy(self, step) + (step.outputs["cvr"] * torch.inf).sum()

    monkeypatch.setattr(type(objectives["cvr"]), "loss", poisoned)
    before = _snapshot(model)
    loop.run(TrainingState())
    after = _snapshot(model)
    assert all(torch.isfinite(tensor).all() for tensor in after.values())
    assert not _moved(before, after, "cvr")
    for part in ("shared", "ctr", "diversity"):
        assert _moved(before, after, part), part
    assert log[0]["train/nonfinite/cvr"] == 1.0 and log[0]["train/nonfinite/ctr"] == 0.0
    assert log[0]["train/skipped_step"] == 0.0
    assert log[0]["balance/weight/cvr"] == 0.0 and log[0]["balance/weight/ctr"] > 0.0
    assert "train/loss/cvr" not in log[0]


def test_activations_that_cannot_be_computed_again_are_told(make_loop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = make_loop()[0]

    def backward(*args: object) -> None:
        raise CheckpointError("recomputed values have different metadata")

    monkeypatch.setattr(loop.accelerator, "backward", backward)
    with pytest.raises(UserError, match=r"checkpointing: the activations of LlamaModel cannot be .* ZeRO-2"):
        loop.run(TrainingState())


def test_a_loss_that_stays_non_finite_stops_the_run(make_loop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, model, objectives, _ = make_loop(max_steps=9, max_nonfinite=3)
    monkeypatch.setattr(type(objectives["ctr"]), "loss", lambda self, step: step.outputs["ctr"].sum() * math.nan)
    with pytest.raises(DivergedError, match=r"objective 'ctr' was not finite in 3 micro-batches in a row"):
        loop.run(TrainingState())
    assert all(torch.isfinite(tensor).all() for tensor in _snapshot(model).values())


def _steep(x: torch.Tensor) -> torch.Tensor:
    """0, with an infinite slope."""
    return (x - x.detach()).abs().sqrt()


@pytest.mark.parametrize("place", ["loss", "tower"])
@pytest.mark.parametrize("balance_every", [1, 3])
def test_a_non_finite_gradient_of_finite_losses_is_dropped_alone(
    place: str, balance_every: int, make_loop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, model, objectives, log = make_loop(max_steps=2, balancing={"balance_every": balance_every})
    if place == "loss":
        broken = lambda self, step: _steep(step.outputs["diversity"]).sum()  # noqa: E731
        monkeypatch.setattr(type(objectives["diversity"]), "loss", broken)
    else:
        layer = model.upper.run

        def strange(index: int, name: str, call: Any, x: torch.Tensor, *rest: Any) -> torch.Tensor:
            return layer(index, name, call, x + _steep(x) if name == "diversity" else x, *rest)

        monkeypatch.setattr(model.upper, "run", strange)
    before = _snapshot(model)
    loop.run(TrainingState())
    after = _snapshot(model)
    assert all(torch.isfinite(tensor).all() for tensor in after.values())
    assert not _moved(before, after, "diversity")
    for part in ("shared", "ctr", "cvr"):
        assert _moved(before, after, part), part
    assert [values["train/skipped_step"] for values in log] == [0.0, 0.0]
    assert [values["balance/nonfinite/diversity"] for values in log] == [1.0, 1.0]
    assert [values["balance/nonfinite/ctr"] for values in log] == [0.0, 0.0]


def test_a_gradient_that_stays_non_finite_stops_the_run(make_loop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, _, objectives, log = make_loop(max_steps=9, max_nonfinite=3)
    monkeypatch.setattr(type(objectives["cvr"]), "loss", lambda self, step: _steep(step.outputs["cvr"]).sum())
    with pytest.raises(
        DivergedError, match=r"gradient of objective 'cvr' was not finite in 3 backwards in a row \(step 2"
    ):
        loop.run(TrainingState())
    assert len(log) == 2


def test_famo_sees_the_losses_of_the_same_batch_after_the_step(make_loop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, _, objectives, _ = make_loop(max_steps=1, lr=0.05)
    seen: list[tuple[Any, Any]] = []
    monkeypatch.setattr(type(loop.balancer.method), "needs_losses_after", True)
    monkeypatch.setattr(loop.balancer, "after_step", lambda before, after: seen.append((before, after)))
    states = {name: dict(objective.state) for name, objective in objectives.items()}
    random = torch.get_rng_state()
    loop.run(TrainingState())
    ((before, after),) = seen
    assert (after < before).sum() >= 2  # a large step on one batch lowers its own losses
    assert torch.equal(torch.get_rng_state(), random)
    assert all(objective.state.keys() == states[name].keys() for name, objective in objectives.items())


def test_the_learning_rate_follows_the_schedule(make_loop: Any) -> None:
    loop, _, _, log = make_loop(max_steps=4, min_lr_ratio=0.0)
    loop.run(TrainingState())
    rates = [values["train/lr"] for values in log]
    assert rates == pytest.approx([1e-2, 1e-2, 1e-2 * 0.75, 1e-2 * 0.25], rel=1e-6)


def test_steps_that_are_left_out_without_end_stop_the_run(make_loop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every loss and gradient is finite, and their norm is not: nothing is learned from then on."""
    loop, _, _, log = make_loop(max_steps=9, max_nonfinite=3)
    monkeypatch.setattr(loop.optimizer.optimizer, "clipped_step", lambda _: torch.tensor(math.inf))
    with pytest.raises(DivergedError, match=r"left out \(step 2\): lower train\.lr .* start anew with --overwrite"):
        loop.run(TrainingState())
    assert [values["train/skipped_step"] for values in log] == [1.0, 1.0]
    assert "NOT FINITE: steps left out 100%" in step_line(1, 9, log[0])


def test_a_checkpoint_says_whether_all_was_finite_before_it(make_loop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, _, _, log = make_loop(max_steps=4, save_every=1)
    good: list[bool] = []
    loop.hooks.save = lambda progress: good.append(progress.good)
    norms = iter([1.0, math.nan, 1.0, 1.0])
    monkeypatch.setattr(loop.optimizer.optimizer, "clipped_step", lambda _: torch.tensor(next(norms)))
    loop.run(TrainingState())
    assert good == [True, False, True, True]
    assert "NOT FINITE" not in step_line(1, 4, log[0])


def test_the_way_back_names_the_last_good_checkpoint(make_loop: Any, tmp_path: Path) -> None:
    loop = make_loop()[0]
    loop.config = loop.config.model_copy(update={"output": tmp_path})
    for step, good in ((2, True), (4, False)):
        folder = tmp_path / "checkpoints" / f"step-00000{step}"
        folder.mkdir(parents=True)
        (folder / "state.json").write_text(json.dumps({"good": good}))
    sentence = loop._way_back(5)
    assert "remove the checkpoints after step-000002, then go on from" in sentence and "--resume" in sentence
