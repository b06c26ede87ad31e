"""Click-through loss."""

import math
from collections.abc import Callable

import pytest
import torch
from sklearn.metrics import log_loss

from equipoise.configs.objectives import CtrConfig
from equipoise.train.objectives.base import Step
from equipoise.train.objectives.pointwise import Binary


def loss(step: Step) -> torch.Tensor:
    return Binary("ctr", CtrConfig()).loss(step)


def test_it_is_log_loss_of_the_corrected_probabilities(make_step: Callable[..., Step]) -> None:
    logits = torch.tensor([-2.0, 0.5, 1.5, -0.1, -3.0], dtype=torch.float64)
    click = [0.0, 1.0, 0.0, 1.0, 0.0]
    plain = loss(make_step([3, 2], {"ctr": logits}, click=click))
    assert float(plain) == pytest.approx(log_loss(click, torch.sigmoid(logits).numpy()), rel=1e-12)
    kept = [math.log(0.25), math.log(0.5)]
    sampled = loss(make_step([3, 2], {"ctr": logits}, click=click, log_sampling_rate=kept))
    # Odds in the sample are the true odds over the kept share.
    odds = logits.exp() / torch.tensor([0.25, 0.25, 0.25, 0.5, 0.5])
    assert float(sampled) == pytest.approx(log_loss(click, (odds / (1 + odds)).numpy()), rel=1e-12)


@pytest.mark.parametrize("p", [0.01, 0.3, 0.9])
@pytest.mark.parametrize("keep", [0.05, 0.5, 1.0])
def test_under_sampling_the_truth_is_the_stationary_point(
    p: float, keep: float, make_step: Callable[..., Step]
) -> None:
    def expected_gradient(logit: float, corrected: bool) -> float:
        # All that can happen to one impression: clicked and kept, unclicked and kept; dropped ones have no loss.
        total = 0.0
        for click, chance in ((1.0, p), (0.0, (1 - p) * keep)):
            x = torch.tensor([logit], dtype=torch.float64, requires_grad=True)
            log_sampling_rate = [math.log(keep) if corrected else 0.0]
            loss(make_step([1], {"ctr": x}, click=[click], log_sampling_rate=log_sampling_rate)).backward()
            total += chance * float(x.grad)
        return total

    truth = math.log(p / (1 - p))
    assert abs(expected_gradient(truth, True)) < 1e-14
    assert expected_gradient(truth + 0.1, True) > 1e-5
    assert expected_gradient(truth - 0.1, True) < -1e-5
    assert keep == 1.0 or expected_gradient(truth, False) < -1e-4  # without the correction it would be off
