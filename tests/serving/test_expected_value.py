"""The expected value of slates and its intervals: what they hold, in shops whose truth is known."""

import numpy as np
import pytest

from equipoise.serving.expected_value import expected_value
from equipoise.train.calibration import calibrate


def test_without_lines_the_interval_is_of_the_shoppers() -> None:
    """The bootstrap's deviation of a sum over shoppers is √S times the deviation of one shopper."""
    rng = np.random.default_rng(0)
    shopper, chance, value = np.repeat(np.arange(400), 3), rng.uniform(0.1, 0.6, 1200), rng.uniform(1, 9, 1200)
    found = expected_value(shopper, {"ctr": chance, "cvr": np.full(1200, 0.5)}, value, 400, {})
    assert found.value == pytest.approx((chance * 0.5 * value).sum()) and not found.calibrated
    total = np.bincount(shopper, chance * 0.5 * value)
    half = 1.96 * np.sqrt(400) * total.std()
    assert found.interval == pytest.approx((found.value - half, found.value + half), rel=0.02)
    sale = chance * 0.5
    half = 1.96 * np.sqrt((value**2 * sale * (1 - sale)).sum())
    assert found.realised == pytest.approx((found.value - half, found.value + half), rel=0.02)
    again = expected_value(shopper, {"ctr": chance, "cvr": np.full(1200, 0.5)}, value, 400, {"other": [[2.0, 1.0]]})
    assert again == found  # lines of what is not in the product change nothing


def test_a_line_moves_the_probability() -> None:
    chance = np.array([0.2, 0.5])
    found = expected_value(np.zeros(2, np.int64), {"ctr": chance}, np.ones(2), 1, {"ctr": [[1.0, np.log(4)]]})
    assert found.calibrated and found.value == pytest.approx(0.7)
    assert found.interval == pytest.approx((0.5 + 0.8, 0.5 + 0.8))  # odds 1/4 and 1, times 4


@pytest.mark.slow
def test_intervals_of_a_calibrated_model_hold_the_truth() -> None:
    """30 shops: probabilities are calibrated on 150 users, and what 60 shoppers are truly worth is known."""
    expected = realised = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        logit, user = rng.normal(-1, 1.2, 1500), np.arange(1500) // 10
        truth = 1 / (1 + np.exp(-(0.7 * logit + 0.4)))
        record = calibrate(((rng.random(1500) < truth).astype(float), logit, user, None), "platt", seed)
        slope, intercept = (record["calibration"][name] for name in ("slope", "intercept"))
        shown = rng.normal(-1, 1.2, 600)
        pays, chance = rng.uniform(1, 4, 600), 1 / (1 + np.exp(-(0.7 * shown + 0.4)))
        own = {"ctr": 1 / (1 + np.exp(-(slope * shown + intercept)))}
        found = expected_value(np.zeros(600, np.int64), own, pays, 1, {"ctr": record["lines"]}, seed)
        expected += found.interval[0] <= (chance * pays).sum() <= found.interval[1]
        brought = ((rng.random(600) < chance) * pays).sum()
        realised += found.realised[0] <= brought <= found.realised[1]
    assert 25 <= expected <= 30 and 25 <= realised <= 30  # 28.5 are due; each end is three deviations away
