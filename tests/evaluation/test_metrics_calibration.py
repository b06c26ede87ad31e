"""Bins of the reliability diagram, against counts by hand and the ECE."""

import numpy as np
import pytest

from equipoise.evaluation.metrics.calibration import calibration_bins, wilson
from equipoise.evaluation.metrics.pointwise import calibration_error


def test_bins_by_hand():
    label = np.array([0, 1, 0, 1, 1, 0])
    probability = np.array([0.1, 0.2, 0.2, 0.6, 0.9, 0.3])
    low, high = calibration_bins(label, probability, bins=2)
    # Sorted: 0.1 (0), 0.2 (1 and 0, so half each), | 0.3 (0), 0.6 (1), 0.9 (1).
    assert low["rows"] == high["rows"] == 3
    assert low["predicted"] == pytest.approx(0.5 / 3) and low["observed"] == pytest.approx(1 / 3)
    assert high["predicted"] == pytest.approx(0.6) and high["observed"] == pytest.approx(2 / 3)


def test_they_are_the_bins_of_the_ece_whatever_the_order_of_rows():
    rng = np.random.default_rng(0)
    probability = rng.random(1003).round(2)  # many ties
    label = (rng.random(1003) < probability**2).astype(np.int8)
    bins = calibration_bins(label, probability)
    assert len(bins) == 15 and sum(each["rows"] for each in bins) == 1003
    error = sum(each["rows"] * abs(each["observed"] - each["predicted"]) for each in bins) / 1003
    assert error == pytest.approx(calibration_error(label, probability), rel=1e-12)
    order = rng.permutation(1003)
    for each, other in zip(bins, calibration_bins(label[order], probability[order]), strict=True):
        assert each["observed"] == pytest.approx(other["observed"])
        assert each["interval"][0] <= each["observed"] <= each["interval"][1]


def test_wilson_against_its_closed_form():
    assert wilson(0.0, 10) == pytest.approx([0.0, 3.8415 / 13.8415], abs=1e-4)  # z² / (n + z²)
    assert wilson(0.5, 100) == pytest.approx([0.4038, 0.5962], abs=1e-4)


def test_nothing_to_draw():
    assert calibration_bins(np.array([]), np.array([])) == []
    assert calibration_bins(np.array([1]), np.array([np.nan])) == []
    assert [each["rows"] for each in calibration_bins(np.array([1, 0]), np.array([0.4, 0.2]))] == [1, 1]
