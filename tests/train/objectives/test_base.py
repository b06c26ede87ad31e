"""Exposure, its divergence from relevance, moving averages, and the order of objectives."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.configs.objectives import ObjectivesConfig
from equipoise.train.objectives.base import Exposure, Step, moving_average
from equipoise.train.objectives.registry import build_objectives

SIZES = [3, 1, 2]
CTR = [-1.0, 0.5, 2.0, -3.0, 0.1, 0.2]
CVR = [0.3, -0.8, -2.0, 1.0, 0.4, -0.4]
DELTA = [0.5, -1.0, 0.2, 3.0, -0.7, 0.9]


def step(make_step: Callable[..., Step], delta: list[float], **options: object) -> Step:
    values = {"ctr": CTR, "cvr": CVR, "diversity": delta}
    return make_step(SIZES, {k: torch.tensor(v, dtype=torch.float64) for k, v in values.items()}, **options)


def by_loops(delta: list[float], temperature: float) -> list[list[float]]:
    log_p = [-math.log1p(math.exp(-a)) - math.log1p(math.exp(-b)) for a, b in zip(CTR, CVR, strict=True)]
    out, start = [], 0
    for size in SIZES:
        raw = [math.exp((log_p[i] + delta[i]) / temperature) for i in range(start, start + size)]
        out.append([value / sum(raw) for value in raw])
        start += size
    return out


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_exposure_by_loops(temperature: float, make_step: Callable[..., Step]) -> None:
    exposure = Exposure.of(step(make_step, DELTA), "diversity", temperature)
    with_delta, without = by_loops(DELTA, temperature), by_loops([0.0] * 6, temperature)
    divergences = []
    for s, size in enumerate(SIZES):
        assert exposure.pi_SM[s, :size].tolist() == pytest.approx(with_delta[s], rel=1e-12)
        assert exposure.pi_SM[s, size:].tolist() == [0.0] * (3 - size)
        pairs = zip(with_delta[s], without[s], strict=True)
        divergences.append(sum(p * math.log(p / q) for p, q in pairs))
    assert exposure.kl_S().tolist() == pytest.approx(divergences, rel=1e-10, abs=1e-15)
    codes = torch.tensor([2, 0, 2, 1, 0, 0])
    grouped = exposure.by_group(exposure.pi_SM, codes, 4)
    (a, b, c), (d,), (e, f) = with_delta
    assert grouped.tolist() == pytest.approx([b + e + f, d, a + c, 0.0], rel=1e-12)


@settings(max_examples=30)
@given(deltas=st.lists(st.floats(-80, 80), min_size=6, max_size=6), temperature=st.floats(0.1, 5))
def test_the_divergence_is_never_negative(
    deltas: list[float], temperature: float, make_step: Callable[..., Step]
) -> None:
    divergence = Exposure.of(step(make_step, deltas), "diversity", temperature).kl_S()
    assert (divergence >= -1e-12).all()
    assert torch.isfinite(divergence).all()
    assert abs(float(divergence[1])) < 1e-12  # one candidate has all exposure whatever its δ


def test_without_adjustment_exposure_is_that_of_relevance(make_step: Callable[..., Step]) -> None:
    exposure = Exposure.of(step(make_step, [0.0] * 6), "diversity", 0.7)
    assert torch.equal(exposure.kl_S(), torch.zeros(3, dtype=torch.float64))
    assert torch.equal(exposure.log_pi_SM, exposure.log_reference_SM)
    # Nor does a shift of a whole slate change anything.
    shifted = Exposure.of(step(make_step, [5.0] * 3 + [1.0] + [-2.0] * 2), "diversity", 0.7)
    torch.testing.assert_close(shifted.pi_SM, exposure.pi_SM, rtol=1e-12, atol=1e-12)


def test_relevance_lets_no_gradient_through(make_step: Callable[..., Step]) -> None:
    outputs = {name: torch.tensor(CTR, requires_grad=True) for name in ("ctr", "cvr", "diversity")}
    exposure = Exposure.of(make_step(SIZES, outputs), "diversity", 1.0)
    (exposure.pi_SM**2).sum().backward()
    assert outputs["ctr"].grad is None
    assert outputs["cvr"].grad is None
    assert outputs["diversity"].grad.abs().max() > 0.01
    only_ctr = make_step(SIZES, outputs, pointwise=("ctr",)).relevance()
    torch.testing.assert_close(only_ctr, torch.tensor(CTR).sigmoid().log())


def test_a_moving_average_has_the_value_of_the_past_and_the_gradient_of_the_present() -> None:
    state: dict[str, torch.Tensor] = {}
    average = 0.0
    for number, value in enumerate([2.0, 6.0, -1.0]):
        now = torch.tensor([value, 1.0], dtype=torch.float64, requires_grad=True)
        mean = moving_average(state, "x", now, momentum=0.75)
        average = value if number == 0 else 0.75 * average + 0.25 * value
        assert mean.tolist() == pytest.approx([average, 1.0], rel=1e-14)
        (mean * torch.tensor([3.0, 5.0])).sum().backward()
        assert now.grad.tolist() == [3.0, 5.0]
        assert state["x"].tolist() == pytest.approx([average, 1.0], rel=1e-14)
        assert not state["x"].requires_grad


def test_one_bad_batch_does_not_spoil_the_average() -> None:
    state = {"x": torch.tensor([1.0, 2.0])}
    bad = moving_average(state, "x", torch.tensor([torch.nan, 1.0]), momentum=0.5)
    assert bad.isnan().any()  # this step is lost, and says so
    assert state["x"].tolist() == [1.0, 2.0]
    assert moving_average(state, "x", torch.tensor([3.0, 2.0]), momentum=0.5).tolist() == [2.0, 2.0]


def test_objectives_come_in_the_order_of_the_towers() -> None:
    config = ObjectivesConfig.model_validate({"coverage": None, "diversity": {"weight": 2.0}, "cvr": None, "ctr": {}})
    objectives = build_objectives(config)
    assert list(objectives) == ["ctr", "cvr", "diversity", "coverage"]
    assert [o.kind for o in objectives.values()] == ["pointwise", "pointwise", "listwise", "listwise"]
    assert [o.name for o in objectives.values()] == list(objectives)
    assert objectives["diversity"].options.weight == 2.0
    assert objectives["coverage"].attributes == ["category"]
    assert objectives["ctr"].attributes == []
