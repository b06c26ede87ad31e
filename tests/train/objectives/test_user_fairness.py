"""Groups of users that are foretold worse count more: weights by hand, processes, and what training makes of it."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from equipoise.configs.objectives import BinaryConfig, CtrConfig, CvrConfig, ObjectivesConfig
from equipoise.configs.schema import RunConfig
from equipoise.train.objectives.base import USER, Objective, Step
from equipoise.train.objectives.cvr import Cvr
from equipoise.train.objectives.pointwise import Binary
from equipoise.train.world import World

SIZES, GROUP = [3, 2, 4], [0, 1, 0]
CLICK = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0]


def fair(method: str = "worst", strength: float = 2.0, momentum: float = 0.0) -> dict[str, object]:
    return {"user_fairness": {"field": "age", "method": method, "strength": strength, "momentum": momentum}}


def objective(**options: object) -> Binary:
    return Binary("ctr", CtrConfig.model_validate(fair(**options))).bind({f"{USER}age": 2}, {})  # type: ignore[arg-type]


def told(make_step: Callable[..., Step], logit: torch.Tensor, **options: object) -> Step:
    step = make_step(SIZES, {"ctr": logit, "cvr": torch.zeros(9)}, click=CLICK, conversion=CLICK, **options)
    return replace(step, batch=replace(step.batch, user_groups={"age": torch.tensor(GROUP)}))


def entropy_ratio(loss: list[float], label: list[float]) -> float:
    rate = sum(label) / len(label)
    return sum(loss) / len(loss) / -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))


@pytest.mark.parametrize("method", ["worst", "parity"])
def test_weights_by_hand(method: str, make_step: Callable[..., Step]) -> None:
    logit = torch.tensor([0.3, -1.0, 0.2, 1.5, -0.7, 0.1, -2.0, 0.4, 0.9], dtype=torch.float64, requires_grad=True)
    loss = objective(method=method).loss(told(make_step, logit))
    each = [math.log1p(math.exp(-x if y else x)) for x, y in zip(logit.tolist(), CLICK, strict=True)]
    group = [0, 0, 0, 1, 1, 0, 0, 0, 0]
    ratios = []
    for number in (0, 1):
        rows = [i for i in range(9) if group[i] == number]
        ratios.append(entropy_ratio([each[i] for i in rows], [CLICK[i] for i in rows]))
    worse = [ratio / entropy_ratio(each, CLICK) - 1 for ratio in ratios]
    weights = [math.exp(2 * w) if method == "worst" else max(0.0, 1 + 2 * w) for w in worse]
    mean = (7 * weights[0] + 2 * weights[1]) / 9
    wanted = sum(weights[g] / mean * e for g, e in zip(group, each, strict=True)) / 9
    assert loss.item() == pytest.approx(wanted)
    assert worse[1] > 0.2 and weights[1] > weights[0]
    gradient = torch.autograd.grad(loss, logit)[0]
    plain = torch.autograd.grad(Binary("ctr", CtrConfig()).loss(told(make_step, logit)), logit)[0]
    torch.testing.assert_close(gradient[3:5], plain[3:5] * weights[1] / mean)


def test_groups_that_are_served_alike_count_alike(make_step: Callable[..., Step]) -> None:
    logit = torch.zeros(9, dtype=torch.float64)
    step = told(make_step, logit)
    step = replace(step, batch=replace(step.batch, user_groups={"age": torch.tensor([1, 1, 1])}))
    plain = Binary("ctr", CtrConfig()).loss(step)
    assert objective(momentum=0.5).loss(step).item() == pytest.approx(plain.item())


def test_two_processes_are_one(make_step: Callable[..., Step], run_world: Callable[..., list]) -> None:
    logit = torch.linspace(-1.5, 1.5, 9, dtype=torch.float64)

    def part(world: World) -> tuple[torch.Tensor, torch.Tensor]:
        whole = world.size == 1
        slates = slice(0, 3) if whole else (slice(0, 2), slice(2, 3))[world.rank]
        rows = slice(0, 9) if whole else (slice(0, 5), slice(5, 9))[world.rank]
        own = logit[rows].clone().requires_grad_(True)
        outputs = {"ctr": own, "cvr": torch.zeros(len(own))}
        totals = told(make_step, logit).totals
        step = make_step(SIZES[slates], outputs, click=CLICK[rows], conversion=CLICK[rows], world=world, totals=totals)
        step = replace(step, batch=replace(step.batch, user_groups={"age": torch.tensor(GROUP[slates])}))
        built: Objective = objective(momentum=0.5)
        for _ in range(2):
            loss = built.loss(step)
        return loss.detach(), torch.autograd.grad(loss, own)[0]

    ((alone, gradient),) = run_world(1, part)
    (one, first), (two, second) = run_world(2, part)
    torch.testing.assert_close((one + two) / 2, alone)
    torch.testing.assert_close(torch.cat([first, second]) / 2, gradient)


@pytest.mark.parametrize("method", ["worst", "parity"])
def test_the_gap_closes(method: str, make_step: Callable[..., Step]) -> None:
    """One slope for a large group that wants it up and a small one that wants it down."""
    rng = np.random.default_rng(0)
    sizes, x = [10] * 60, rng.normal(size=600)
    group = (np.arange(60) % 5 == 0).astype(int)
    slope = np.where(np.repeat(group, 10) == 1, -0.5, 1.0)
    click = (rng.random(600) < 1 / (1 + np.exp(-slope * x - 1.0 * np.repeat(group, 10)))).astype(float).tolist()
    gaps = []
    for options in ({}, fair(method, 6.0, 0.5)):
        built = Binary("ctr", CtrConfig.model_validate(options)).bind({f"{USER}age": 2}, {})
        w = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        solver = torch.optim.SGD([w], lr=1.0)
        for _ in range(150):
            logit = w[0] * torch.from_numpy(x) + w[1]
            step = make_step(sizes, {"ctr": logit, "cvr": torch.zeros(600)}, click=click)
            step = replace(step, batch=replace(step.batch, user_groups={"age": torch.from_numpy(group)}))
            solver.zero_grad()
            built.loss(step).backward()
            solver.step()
        loss = np.log1p(np.exp(-(2 * np.array(click) - 1) * logit.detach().numpy()))
        parts = [np.repeat(group, 10) == number for number in (0, 1)]
        ratios = [entropy_ratio(loss[part].tolist(), np.array(click)[part].tolist()) for part in parts]
        gaps.append(ratios[1] - ratios[0])
    assert gaps[0] > 0.05 and gaps[1] < 0.7 * gaps[0]


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValidationError, match="not of ips"):
        CvrConfig.model_validate({**fair(), "estimator": "ips"})
    assert Cvr("cvr", CvrConfig.model_validate(fair())).user_attribute == "age"
    assert BinaryConfig.model_validate({**fair(), "kind": "binary", "label": "saved"}).user_fairness is not None
    settings = {
        "name": "run", "output": "run",
        "data": {"folder": "data", "tables": {"impressions": "none.csv", "items": "none.csv"}},
        "backbone": {"path": "none", "split": 1}, "objectives": {"ctr": fair()},
    }  # fmt: skip
    with pytest.raises(ValidationError, match=r"objectives\.ctr\.user_fairness names 'age', which is not kept"):
        RunConfig.model_validate(settings)
    kept = {**settings, "data": {**settings["data"], "user_groups": ["age"]}}  # type: ignore[dict-item]
    assert RunConfig.model_validate(kept).objectives.ctr == ObjectivesConfig.model_validate({"ctr": fair()}).ctr
