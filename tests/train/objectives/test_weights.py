"""A candidate of weight 2 counts as two, one of weight 0 as none, in the loss and gradient of every objective."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from equipoise.common.link import Link
from equipoise.configs.objectives import ObjectivesConfig
from equipoise.train.objectives.base import Objective, Step
from equipoise.train.objectives.registry import build_objectives

OBJECTIVES: dict[str, Any] = {
    "ctr": {},
    "cvr": {},
    "basket": {"kind": "binary", "label": "conversion"},
    "margin": {"kind": "value", "label": "conversion", "given": "click"},
}
OUTPUTS = {
    "ctr": [-1.0, 0.5, 2.0, -0.3, 0.1, 0.2],
    "cvr": [0.3, -0.8, -2.0, 1.0, 0.4, -0.4],
    "cvr.1": [0.1, 0.2, -0.3, 0.4, -0.5, 0.6],
    "basket": [0.9, -0.1, 0.4, -1.2, 0.7, 0.0],
    "margin": [0.5, 0.1, -0.7, 0.2, 1.5, -0.2],
}
CLICK, CONVERSION = [1.0, 0.0, 1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0, 1.0, 1.0]
TIMES = [2, 1, 0, 3, 1, 0]


def built(name: str, **options: Any) -> Objective:
    settings = {key: dict(value) for key, value in OBJECTIVES.items()}
    settings[name] |= options
    objective = build_objectives(ObjectivesConfig.model_validate(settings))[name]
    return objective.bind({}, {"margin": Link("identity", 0.5)})


def loss_and_gradient(
    objective: Objective, make_step: Callable[..., Step], times: list[int], weighed: bool, **options: Any
) -> tuple[float, torch.Tensor]:
    """Of six candidates that are weighed, or repeated that often; gradients by candidate."""
    index = list(range(6)) if weighed else [row for row, count in enumerate(times) for _ in range(count)]
    outputs = {name: torch.tensor(v, dtype=torch.float64, requires_grad=True) for name, v in OUTPUTS.items()}
    step = make_step(
        [len(index)],
        {name: values[index] for name, values in outputs.items()},
        click=[CLICK[row] for row in index],
        conversion=[CONVERSION[row] for row in index],
        log_sampling_rate=[math.log(0.5)],
        weight=[float(times[row]) for row in index] if weighed else None,
        **options,
    )
    loss = objective.loss(step)
    loss.backward()
    gradient = outputs[objective.name].grad
    assert gradient is not None and gradient.abs().max() > 1e-3
    return float(loss), gradient


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ctr", {}),
        ("cvr", {"estimator": "esmm"}),
        ("cvr", {"estimator": "ips"}),
        ("cvr", {"estimator": "dr"}),
        ("basket", {}),
        ("margin", {}),
        ("margin", {"loss": "squared"}),
    ],
)
def test_a_weight_counts_as_that_many_rows(name: str, options: dict[str, Any], make_step: Callable[..., Step]) -> None:
    objective = built(name, **options)
    loss, gradient = loss_and_gradient(objective, make_step, TIMES, weighed=True)
    repeated, expected = loss_and_gradient(objective, make_step, TIMES, weighed=False)
    assert loss == pytest.approx(repeated, abs=1e-9)
    torch.testing.assert_close(gradient, expected, atol=1e-9, rtol=0)
    assert gradient[2] == gradient[5] == 0
    plain, unweighed = loss_and_gradient(objective, make_step, [1] * 6, weighed=False)
    assert abs(plain - loss) > 1e-3 and not torch.allclose(gradient, unweighed, atol=1e-3)


@pytest.mark.parametrize("name", ["ctr", "basket", "margin", "cvr"])
def test_without_self_normalisation_a_batch_is_divided_by_its_rows(name: str, make_step: Callable[..., Step]) -> None:
    """Twice the weights are twice the loss, and nothing changes where they are normalised."""
    objective = built(name)
    double = [2 * count for count in TIMES]
    for self_normalize, factor in ((True, 1.0), (False, 2.0)):
        options = {"weighed": True, "self_normalize": self_normalize}
        once, _ = loss_and_gradient(objective, make_step, TIMES, **options)
        twice, _ = loss_and_gradient(objective, make_step, double, **options)
        assert twice == pytest.approx(factor * once, rel=1e-12)


@pytest.mark.parametrize("form", ["greedy", "parallel"])
@pytest.mark.parametrize("name", ["diversity", "coverage", "fairness"])
def test_a_slate_of_weight_2_counts_as_two(name: str, form: str, make_step: Callable[..., Step]) -> None:
    """A slate counts by the mean weight of its candidates, by exposure and by drawn lists alike."""
    config = ObjectivesConfig.model_validate({"ctr": {}, "cvr": {}, name: {"form": form}})
    attributes = build_objectives(config)[name].attributes
    sizes, codes, delta = [3, 2, 4], [0, 1, 1, 2, 0, 1, 2, 0, 2], [0.5, -1.0, 0.2, 3.0, -0.7, 0.9, 0.0, 0.3, -0.2]
    ctr = [-1.0, 0.5, 2.0, -3.0, 0.1, 0.2, 0.6, -0.6, 1.0]
    starts = [0, 3, 5]

    def measured(times: list[int], weighed: bool) -> tuple[float, torch.Tensor]:
        objective = build_objectives(config)[name].bind(dict.fromkeys(attributes, 3), {})
        output = torch.tensor(delta, dtype=torch.float64, requires_grad=True)
        shown = range(3) if weighed else [slate for slate, count in enumerate(times) for _ in range(count)]
        rows = [starts[slate] + place for slate in shown for place in range(sizes[slate])]
        weight = [float(times[slate] + shift) for slate in range(3) for shift in _spread(sizes[slate])]
        step = make_step(
            [sizes[slate] for slate in shown],
            {"ctr": torch.tensor(ctr, dtype=torch.float64)[rows], "cvr": torch.zeros(len(rows)), name: output[rows]},
            attributes={each: [codes[row] for row in rows] for each in attributes},
            weight=weight if weighed else None,
            click=[float(row in (0, 4, 6)) for row in rows],
        )
        step = replace(step, batch=replace(step.batch, row=torch.tensor(list(shown))))
        loss = objective.loss(step)
        loss.backward()
        assert output.grad is not None
        return float(loss), output.grad

    loss, gradient = measured([2, 1, 3], weighed=True)
    repeated, expected = measured([2, 1, 3], weighed=False)
    assert loss == pytest.approx(repeated, abs=1e-6)
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=0)
    assert abs(loss - measured([1, 1, 1], weighed=False)[0]) > 1e-4


def _spread(size: int) -> list[float]:
    """Shifts of the candidates' weights around their slate's, 0 in the mean."""
    return [0.5, -0.5] + [0.0] * (size - 2)
