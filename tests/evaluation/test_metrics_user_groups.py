"""Gaps between user groups."""

import math

import numpy as np
import pytest

from equipoise.evaluation.metrics import ScoreTable
from equipoise.evaluation.metrics.pointwise import auc, log_loss
from equipoise.evaluation.metrics.user_groups import group_gaps, user_group_gaps


def test_gaps_are_those_of_the_groups_that_can_be_judged():
    generator = np.random.default_rng(0)
    label, probability = generator.integers(0, 2, 300), generator.random(300)
    group = np.array(["young"] * 100 + [None] * 100 + ["few"] * 49 + ["quiet"] * 51, object)
    label[249:] = 0
    found = group_gaps(label, probability, group)
    assert set(found["groups"]) == {"young", "unknown"}
    assert found["left_out"] == ["few", "quiet"]
    aucs = auc(label[:100], probability[:100]), auc(label[100:200], probability[100:200])
    losses = log_loss(label[:100], probability[:100]), log_loss(label[100:200], probability[100:200])
    assert found["groups"]["unknown"]["auc"] == pytest.approx(aucs[1])
    assert found["groups"]["unknown"]["rows"] == 100
    assert found["gap"]["auc"] == pytest.approx(abs(aucs[0] - aucs[1]))
    assert found["gap"]["log_loss"] == pytest.approx(abs(losses[0] - losses[1]))


def test_one_group_has_no_gap():
    table = ScoreTable(
        np.zeros(60), np.zeros(60), ["u"] * 60, [0, 1] * 30, [0] * 60, [0.5] * 60, user_groups={"age": [None] * 60}
    )
    found = user_group_gaps(table)["age"]
    assert list(found["groups"]) == ["unknown"]
    assert all(math.isnan(gap) for gap in found["gap"].values())
