"""Pointwise metrics against hand-computed truths, loops over scikit-learn, and the properties that they promise."""

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score

from equipoise.evaluation.metrics.bootstrap import interval, request_draws, resampled_auc, resampled_gauc
from equipoise.evaluation.metrics.pointwise import (
    METRICS,
    auc,
    calibration_error,
    gauc,
    log_loss,
    normalized_entropy,
    pointwise_metrics,
    request_auc,
    target_metrics,
)


def loop_gauc(label: np.ndarray, score: np.ndarray, request: np.ndarray) -> float:
    """GAUC by its definition, one request after another."""
    total, weight = 0.0, 0
    for number in np.unique(request):
        mine = request == number
        if 0 < label[mine].sum() < mine.sum():
            total += roc_auc_score(label[mine], score[mine]) * mine.sum()
            weight += mine.sum()
    return total / weight if weight else math.nan


@st.composite
def scored_rows(draw):
    """Labels, integer scores with many ties, and request numbers in any order."""
    size = draw(st.integers(1, 40))
    label = draw(arrays(np.int8, size, elements=st.integers(0, 1)))
    score = draw(arrays(np.int64, size, elements=st.integers(-4, 4)))
    request = draw(arrays(np.int64, size, elements=st.integers(-3, 5)))
    return label, score.astype(float), request


def test_gauc_by_hand():
    label = np.array([1, 0, 0, 1, 0, 1, 1])
    score = np.array([0.9, 0.1, 0.9, 0.2, 0.6, 0.5, 0.5])
    request = np.array([1, 1, 1, 2, 2, 3, 3])
    # request 1: one pair won, one tied = 0.75, weight 3; request 2: lost = 0, weight 2; request 3 has one label only
    assert gauc(label, score, request) == pytest.approx(0.75 * 3 / 5)
    aucs, rows = request_auc(label, score, request)
    np.testing.assert_array_equal(aucs, [0.75, 0.0, math.nan])
    np.testing.assert_array_equal(rows, [3, 2, 2])


@given(scored_rows())
def test_gauc_is_the_loop_over_requests(rows):
    assert gauc(*rows) == pytest.approx(loop_gauc(*rows), nan_ok=True)


@given(scored_rows(), st.sampled_from([np.exp, np.arctan, lambda score: 3 * score - 7]))
def test_gauc_ignores_monotone_transforms(rows, transform):
    label, score, request = rows
    assert gauc(label, transform(score), request) == pytest.approx(gauc(*rows), nan_ok=True)


@given(scored_rows(), st.integers(0, 2**31))
def test_gauc_ignores_constants_per_request_and_the_order_of_rows(rows, seed):
    label, score, request = rows
    order = np.random.default_rng(seed).permutation(len(label))
    shifted = score + 100.0 * request
    assert gauc(label[order], shifted[order], request[order]) == pytest.approx(gauc(*rows), nan_ok=True)


def test_gauc_is_fast_on_many_rows():
    generator = np.random.default_rng(0)
    request = np.repeat(np.arange(10_000), 30)
    label, score = generator.integers(0, 2, 300_000), generator.random(300_000)
    start = time.process_time()
    gauc(label, score, request)
    assert time.process_time() - start < 1.0


def test_log_loss_and_ne_by_hand():
    label, probability = np.array([1, 0, 0, 0]), np.array([0.5, 0.25, 0.25, 0.25])
    expected = -(math.log(0.5) + 3 * math.log(0.75)) / 4
    assert log_loss(label, probability) == pytest.approx(expected)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert normalized_entropy(label, probability) == pytest.approx(expected / entropy)
    assert normalized_entropy(label, np.full(4, 0.25)) == pytest.approx(1.0)


def test_log_loss_is_that_of_sklearn_and_survives_certainty():
    generator = np.random.default_rng(1)
    label, probability = generator.integers(0, 2, 100), generator.random(100)
    assert log_loss(label, probability) == pytest.approx(sklearn_log_loss(label, probability))
    assert log_loss(np.array([1]), np.array([0.0])) == pytest.approx(-math.log(1e-7))
    assert log_loss(np.array([0]), np.array([1.0])) == pytest.approx(-math.log(1e-7), rel=1e-6)


def test_ece_by_hand():
    label, probability = np.array([0, 1, 1, 1]), np.array([0.1, 0.2, 0.8, 0.6])
    # two bins: {0.1, 0.2} has gap |0.5 − 0.15|, {0.6, 0.8} has |1 − 0.7|
    assert calibration_error(label, probability, bins=2) == pytest.approx((0.35 + 0.3) / 2)


def test_ece_of_a_constant_is_its_distance_to_the_observed_rate():
    label = np.repeat([1, 0], 50)
    assert calibration_error(label, np.full(100, 0.5)) == pytest.approx(0.0, abs=1e-12)
    assert calibration_error(label, np.full(100, 0.2)) == pytest.approx(0.3)


@given(scored_rows(), st.integers(0, 2**31))
def test_ece_ignores_the_order_of_rows(rows, seed):
    label, score, _ = rows
    probability = 1 / (1 + np.exp(-score))
    order = np.random.default_rng(seed).permutation(len(label))
    expected = calibration_error(label, probability)
    assert calibration_error(label[order], probability[order]) == pytest.approx(expected)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("label", "probability"),
    [
        ([], []),
        ([1], [0.5]),
        ([0, 0], [0.1, 0.2]),
        ([1, 1], [0.1, 0.2]),
        ([0, 1], [math.nan, 0.2]),
    ],
)
def test_degenerate_rows_give_nan_and_no_exception(label, probability):
    label, probability = np.array(label, np.int8), np.array(probability, np.float64)
    found = target_metrics(label, probability, np.zeros(len(label), np.int64))
    assert tuple(found) == METRICS
    for metric in ("auc", "gauc", "ne"):
        assert math.isnan(found[metric])
    assert math.isnan(auc(label, probability))


def test_pointwise_metrics_of_all_targets():
    click, conversion = np.array([1, 1, 0, 0]), np.array([1, 0, 1, 0])
    pctr, pcvr = np.array([0.8, 0.5, 0.4, 0.1]), np.array([0.5, 0.2, 0.9, 0.1])
    request = np.array([0, 0, 1, 1])
    found = pointwise_metrics(click, conversion, pctr, pcvr, request)
    assert found["ctr/auc"] == 1.0
    assert math.isnan(found["ctr/gauc"])  # each request has one label only
    assert found["ctcvr/auc"] == 1.0  # 0.40 against 0.10, 0.36, 0.01: conversion without click is no positive
    assert found["ctcvr/observed"] == 0.25
    assert found["cvr/auc"] == 1.0 and found["cvr/observed"] == 0.5  # the two clicked rows
    assert found["ctr/predicted"] == pytest.approx(0.45)


def test_pointwise_metrics_without_pcvr_has_ctr_only():
    found = pointwise_metrics(np.array([1, 0]), np.array([0, 0]), np.array([0.6, 0.4]), None, np.array([0, 0]))
    assert {name.split("/")[0] for name in found} == {"ctr"}


@given(scored_rows())
def test_resampled_metrics_are_those_of_the_repeated_rows(rows):
    label, score, request = rows
    numbers = np.unique(request)
    aucs, gaucs = (resampled(*rows, resamples=3, seed=5) for resampled in (resampled_auc, resampled_gauc))
    for number, times in enumerate(request_draws(len(numbers), 3, 5)):
        copies = [np.flatnonzero(request == r) for r, count in zip(numbers, times, strict=True) for _ in range(count)]
        names = np.repeat(np.arange(len(copies)), [len(copy) for copy in copies])
        kept = np.concatenate(copies)
        assert aucs[number] == pytest.approx(auc(label[kept], score[kept]), nan_ok=True)
        assert gaucs[number] == pytest.approx(gauc(label[kept], score[kept], names), nan_ok=True)


def test_interval_is_nan_where_most_samples_are():
    assert interval(np.arange(101.0), level=0.9) == pytest.approx([5, 95])
    assert all(map(math.isnan, interval(np.array([math.nan, math.nan, 1.0]))))
