"""Losses of columns against numbers worked out by hand."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from equipoise.common.link import Link, start_of
from equipoise.configs.objectives import ObjectivesConfig
from equipoise.modeling.relevance import Relevance
from equipoise.train.objectives.base import Objective, Step
from equipoise.train.objectives.registry import build_objectives

F = torch.float64


def build(name: str, link: Link | None = None, **section: object) -> Objective:
    sections = {"ctr": {}, "cvr": {}, "basket": {"kind": "binary", "label": "cart", "given": "click"}}
    config = ObjectivesConfig.model_validate({**sections, **({name: section} if section else {})})
    return build_objectives(config)[name].bind({}, {name: link} if link else {})


def with_labels(step: Step, **labels: list[float]) -> Step:
    tensors = {name: torch.tensor(values, dtype=F) for name, values in labels.items()}
    return replace(step, batch=replace(step.batch, labels=tensors))


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_a_chain_is_the_cross_entropy_of_its_product(make_step: Callable[..., Step]) -> None:
    """Three candidates, click 0.5 → cart 0.4 → paid 0.25: the product is 0.05."""
    outputs = {
        name: torch.full((3,), logit(p), dtype=F) for name, p in {"ctr": 0.5, "basket": 0.4, "paid": 0.25}.items()
    }
    outputs["paid"].requires_grad_()
    outputs["basket"].requires_grad_()
    step = with_labels(
        make_step([3], outputs, click=[1.0, 1.0, 0.0]),
        cart=[1.0, 1.0, math.nan],
        paid=[1.0, 0.0, 1.0],  # the last one is 1 by mistake: without a click it does not count
    )
    loss = build("paid", kind="binary", label="paid", given="basket").loss(step)
    assert loss.item() == pytest.approx(-(math.log(0.05) + 2 * math.log(0.95)) / 3)
    loss.backward()
    assert outputs["basket"].grad is None  # it stays in its own tower
    # d/dlogit of −log p = −(1 − σ); of −log(1 − p) = p (1 − σ) / (1 − p)
    expected = torch.tensor([-0.75, 0.05 * 0.75 / 0.95, 0.05 * 0.75 / 0.95], dtype=F) / 3
    torch.testing.assert_close(outputs["paid"].grad, expected)


def test_sampling_moves_the_click_of_a_chain_alone(make_step: Callable[..., Step]) -> None:
    outputs = {"ctr": torch.tensor([logit(0.2)], dtype=F), "basket": torch.tensor([logit(0.5)], dtype=F)}
    step = with_labels(make_step([1], outputs, click=[1.0], log_sampling_rate=[math.log(0.25)]), cart=[1.0])
    # odds 0.2 / 0.8 = 0.25 become 1 where a quarter of the unclicked is kept
    assert build("basket").loss(step).item() == pytest.approx(-math.log(0.5 * 0.5))


def test_without_a_click_in_the_chain_unclicked_candidates_stand_for_several(make_step: Callable[..., Step]) -> None:
    outputs = {"seen": torch.tensor([logit(0.5), logit(0.2)], dtype=F)}
    step = with_labels(make_step([2], outputs, click=[1.0, 0.0], log_sampling_rate=[math.log(0.25)]), seen=[0.0, 1.0])
    loss = build("seen", kind="binary", label="seen").loss(step)
    assert loss.item() == pytest.approx(-(math.log(0.5) + 4 * math.log(0.2)) / 5)


def test_a_value_is_learnt_where_it_was_observed(make_step: Callable[..., Step]) -> None:
    """Standard deviation 2: the errors are (1 − 1.5) and (4 − 1): Huber's 0.125 and 3 − 0.5."""
    outputs = {"margin": torch.tensor([1.0, 4.0, 9.0, 9.0, 9.0], dtype=F, requires_grad=True)}
    step = make_step([5], outputs, click=[1.0, 1, 1, 1, 0], conversion=[1.0, 1, 1, 0, 1])
    step = with_labels(step, margin=[3.0, 2.0, math.nan, 5.0, 5.0])
    loss = build("margin", Link("identity", 2.0), kind="value", label="margin", given="conversion").loss(step)
    assert loss.item() == pytest.approx((0.125 + 2.5) / 2)
    loss.backward()
    torch.testing.assert_close(outputs["margin"].grad, torch.tensor([-0.25, 0.5, 0, 0, 0], dtype=F))


def test_a_batch_without_an_observed_value_teaches_nothing(make_step: Callable[..., Step]) -> None:
    outputs = {"margin": torch.tensor([1.0, 2.0], dtype=F, requires_grad=True)}
    step = with_labels(make_step([2], outputs), margin=[3.0, math.nan])
    loss = build("margin", Link("identity", 2.0), kind="value", label="margin", given="conversion").loss(step)
    loss.backward()
    assert loss.item() == 0 and outputs["margin"].grad.tolist() == [0, 0]


def test_a_count_is_half_of_poissons_deviance(make_step: Callable[..., Step]) -> None:
    outputs = {"visits": torch.tensor([math.log(2.0), 0.0], dtype=F, requires_grad=True)}
    step = with_labels(make_step([2], outputs, click=[1.0, 1.0]), visits=[3.0, 0.0])
    loss = build("visits", Link("exp"), kind="count", label="visits", given="click").loss(step)
    assert loss.item() == pytest.approx((3 * math.log(1.5) - 1 + 1) / 2)
    loss.backward()
    torch.testing.assert_close(outputs["visits"].grad, torch.tensor([-0.5, 0.5], dtype=F))  # (μ − y) / 2


@pytest.mark.parametrize(
    ("link", "mean"), [(Link(), 0.3), (Link("identity", 2.0), -3.0), (Link("softplus", 2.0), 5.0), (Link("exp"), 0.2)]
)
def test_a_head_starts_at_the_mean(link: Link, mean: float) -> None:
    assert float(link.value(start_of(link, mean))) == pytest.approx(mean)


def test_relevance_weighs_logarithms_by_the_formula() -> None:
    links = {"margin": Link("softplus", 2.0), "visits": Link("exp")}
    outputs = {"ctr": torch.tensor([0.3]), "cvr": torch.tensor([-1.0]), "margin": torch.tensor([-40.0, 1.0])[:1]}
    outputs["visits"] = torch.tensor([0.7])
    found = Relevance({"ctr": 1.0, "margin": 0.5, "visits": -2.0}, links)(outputs)
    expected = Link().log(0.3) + 0.5 * links["margin"].log(-40.0) - 2 * 0.7  # type: ignore[operator]
    assert found.item() == pytest.approx(expected, rel=1e-6)
    plain = Relevance({"ctr": 1.0, "cvr": 1.0})(outputs)
    logits = torch.stack([outputs["ctr"], outputs["cvr"]])
    assert torch.equal(plain, torch.nn.functional.logsigmoid(logits).sum(0))
