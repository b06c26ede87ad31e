"""Conversion losses against exact arithmetic and formulas written out."""

import math
from collections.abc import Callable
from decimal import Decimal, getcontext

import pytest
import torch

from equipoise.configs.objectives import CvrConfig
from equipoise.train.objectives.base import Step, Totals
from equipoise.train.objectives.cvr import Cvr
from equipoise.train.objectives.pointwise import log1m_product

getcontext().prec = 80


def sigmoid(x: float) -> Decimal:
    return 1 / (1 + (-Decimal(x)).exp())


def loss(step: Step, **options: object) -> torch.Tensor:
    return Cvr("cvr", CvrConfig(**options)).loss(step)


LOGITS = [-50.0, -20.0, -5.0, -0.5, 0.0, 1.0, 8.0, 17.0, 30.0, 50.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_of_one_minus_a_product_is_exact_at_both_ends(dtype: torch.dtype) -> None:
    for a in LOGITS:
        for b in LOGITS:
            x = torch.tensor(a, dtype=dtype)
            y = torch.tensor(b, dtype=dtype, requires_grad=True)
            value = log1m_product(x, y)
            value.backward()
            p = sigmoid(a) * sigmoid(b)
            exact, slope = (1 - p).ln(), -p * (1 - sigmoid(b)) / (1 - p)
            eps = torch.finfo(dtype).eps  # of a logarithm near 0, rounding leaves the digits after the point
            assert value.item() == pytest.approx(float(exact), rel=8 * eps, abs=2 * eps), (a, b)
            assert float(y.grad) == pytest.approx(float(slope), rel=100 * eps, abs=1e-40), (a, b)


@pytest.mark.parametrize("label", [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)])
def test_esmm_is_the_cross_entropy_of_the_product(label: tuple[float, float], make_step: Callable[..., Step]) -> None:
    click, conversion = label
    for a in LOGITS:
        for b in LOGITS:
            ctr = torch.tensor([a], requires_grad=True)
            cvr = torch.tensor([b], requires_grad=True)
            value = loss(make_step([1], {"ctr": ctr, "cvr": cvr}, click=[click], conversion=[conversion]))
            value.backward()
            p, c = sigmoid(a) * sigmoid(b), sigmoid(b)
            # A conversion without a click is none.
            bought = click * conversion > 0
            exact = -p.ln() if bought else -(1 - p).ln()
            slope = -(1 - c) if bought else p * (1 - c) / (1 - p)
            assert value.item() == pytest.approx(float(exact), rel=1e-6, abs=3e-7)
            # Where pCVR is all but 1, 1 − pCVR has been rounded away from the loss of a conversion.
            assert float(cvr.grad) == pytest.approx(float(slope), rel=1e-5, abs=1e-7 if bought else 1e-40)
            assert ctr.grad is None  # the cotangent must be that of one objective


@pytest.mark.parametrize("estimator", ["esmm", "ips", "dr"])
@pytest.mark.parametrize("keep", [0.1, 1.0])
def test_the_truth_is_the_stationary_point_under_sampling(
    estimator: str, keep: float, make_step: Callable[..., Step]
) -> None:
    p_click, p_conversion = 0.2, 0.3

    def expected_gradient(logit: float) -> float:
        total = 0.0
        outcomes = {
            (1.0, 1.0): p_click * p_conversion,
            (1.0, 0.0): p_click * (1 - p_conversion),
            (0.0, 0.0): (1 - p_click) * keep,
        }
        for (click, conversion), chance in outcomes.items():
            ctr = torch.tensor([math.log(p_click / (1 - p_click))], dtype=torch.float64)
            cvr = torch.tensor([logit], dtype=torch.float64, requires_grad=True)
            outputs = {"ctr": ctr, "cvr": cvr, "cvr.1": torch.tensor([0.7], dtype=torch.float64)}
            step = make_step(
                [1],
                outputs,
                click=[click],
                conversion=[conversion],
                log_sampling_rate=[math.log(keep)],
                totals=Totals(1.0, 1.0, 1.0),
            )
            loss(step, estimator=estimator).backward()
            total += chance * (0.0 if cvr.grad is None else float(cvr.grad))
        return total

    truth = math.log(p_conversion / (1 - p_conversion))
    assert abs(expected_gradient(truth)) < 1e-14
    assert expected_gradient(truth + 0.5) > 1e-3
    assert expected_gradient(truth - 0.5) < -1e-3


CLICK, CONVERSION = [1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]
CTR, CVR, IMPUTED = [-1.0, 0.5, -9.0, 2.0], [0.3, -0.2, 1.1, 0.8], [0.2, -0.4, 0.9, -1.5]


def step_by_hand(make_step: Callable[..., Step]) -> Step:
    names = {"ctr": CTR, "cvr": CVR, "cvr.1": IMPUTED}
    outputs = {name: torch.tensor(values, dtype=torch.float64, requires_grad=True) for name, values in names.items()}
    return make_step([2, 2], outputs, click=CLICK, conversion=CONVERSION, log_sampling_rate=[math.log(0.25), 0.0])


def test_ips_by_hand(make_step: Callable[..., Step]) -> None:
    step = step_by_hand(make_step)
    total = 0.0
    for click, conversion, ctr, cvr in zip(CLICK, CONVERSION, CTR, CVR, strict=True):
        p, c = 1 / (1 + math.exp(-ctr)), 1 / (1 + math.exp(-cvr))
        total += click / max(p, 0.02) * -math.log(c if conversion else 1 - c)
    value = loss(step, estimator="ips")
    # Six impressions: one of the four unclicked of the first slate was kept.
    assert value.item() == pytest.approx(total / (1 + 4 + 1 + 1), rel=1e-12)
    value.backward()
    assert step.outputs["ctr"].grad is None
    assert step.outputs["cvr"].grad[1] == step.outputs["cvr"].grad[3] == 0  # unclicked ones are not observed


def test_dr_by_hand(make_step: Callable[..., Step]) -> None:
    step = step_by_hand(make_step)
    total, imputation = 0.0, []
    for i, (click, conversion, ctr, cvr, raw) in enumerate(zip(CLICK, CONVERSION, CTR, CVR, IMPUTED, strict=True)):
        p, c = max(1 / (1 + math.exp(-ctr)), 0.02), 1 / (1 + math.exp(-cvr))
        error, imputed = -math.log(c if conversion else 1 - c), math.log1p(math.exp(raw))
        importance_weight = 1.0 if click or i > 1 else 4.0
        total += importance_weight * imputed + click / p * (error - imputed) + click / p * (error - imputed) ** 2
        slope = 1 / (1 + math.exp(-raw))
        imputation.append((importance_weight - click / p - 2 * click / p * (error - imputed)) * slope / 7)
    objective = Cvr("cvr", CvrConfig(estimator="dr"))
    assert objective.outputs == 2
    value = objective.loss(step)
    assert value.item() == pytest.approx(total / 7, rel=1e-12)
    value.backward()
    assert step.outputs["ctr"].grad is None
    torch.testing.assert_close(step.outputs["cvr.1"].grad, torch.tensor(imputation, dtype=torch.float64))
    # The imputation's own error does not move the prediction: its gradient is that of ips.
    other = step_by_hand(make_step)
    loss(other, estimator="ips").backward()
    torch.testing.assert_close(step.outputs["cvr"].grad, other.outputs["cvr"].grad)
    assert Cvr("cvr", CvrConfig()).outputs == 1
