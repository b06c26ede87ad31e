"""Trivial baselines: their formulas by hand, and what they say of the unseen."""

import math

import numpy as np
import pytest

from equipoise.common.errors import UserError
from equipoise.evaluation.baselines import (
    TrainCounts,
    baseline_metrics,
    baseline_scores,
    field_ranking,
    popularity,
    rate_baselines,
)
from equipoise.evaluation.metrics import ScoreTable
from equipoise.evaluation.metrics.list_metrics import RankingMetrics

COUNTS = TrainCounts.count(
    user=["a", "a", "b", "b", "b"],
    item=np.array([0, 1, 0, 0, 3]),
    click=np.array([1, 0, 1, 0, 0]),
    conversion=np.array([1, 1, 0, 0, 0]),
)


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_counts():
    assert COUNTS.rows == 5
    assert COUNTS.item_rows.tolist() == [3, 1, 0, 1]
    assert COUNTS.rate("ctr") == pytest.approx(2 / 5)
    assert COUNTS.rate("ctcvr") == pytest.approx(1 / 5)  # the conversion without click is no positive


def test_rates_by_hand():
    found = rate_baselines(COUNTS, "ctr", np.array([0, 1]), np.array(["b", "a"]), strength=10)
    assert found["global rate"].tolist() == [0.4, 0.4]
    assert found["item rate"].tolist() == pytest.approx([(2 + 4) / 13, (0 + 4) / 11])
    assert found["user rate"].tolist() == pytest.approx([(1 + 4) / 13, (1 + 4) / 12])
    expected = logit(6 / 13) + logit(5 / 13) - logit(0.4)
    assert found["item x user"][0] == pytest.approx(1 / (1 + math.exp(-expected)))


def test_the_unseen_gets_the_global_rate():
    found = rate_baselines(COUNTS, "ctcvr", np.array([2, 99]), np.array(["new", "new"]))
    for probabilities in found.values():
        assert probabilities.tolist() == pytest.approx([0.2, 0.2])
    assert popularity(COUNTS, np.array([0, 1, 99])).tolist() == [2, 0, 0]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("label", [0, 1])
def test_constant_training_labels_stay_finite(label):
    counts = TrainCounts.count(["a", "b"], np.array([0, 1]), np.full(2, label), np.full(2, label))
    found = rate_baselines(counts, "ctr", np.array([0, 5]), np.array(["a", "c"]))
    for probabilities in found.values():
        assert probabilities.tolist() == pytest.approx([label, label], abs=1e-6)


def test_an_empty_training_split_is_named():
    counts = TrainCounts.count([], np.array([]), np.array([]), np.array([]))
    with pytest.raises(UserError, match="training split has no impression"):
        rate_baselines(counts, "ctr", np.array([0]), np.array(["a"]))


def small_table(**fields) -> ScoreTable:
    return ScoreTable([0, 0, 0, 0], [0, 1, 2, 3], list("aabb"), [1, 0, 0, 1], [0] * 4, [0.5] * 4, fields=fields)


def test_a_missing_field_value_ranks_lowest():
    table = small_table(times=[-5.0, math.nan, -math.inf, math.inf])
    assert field_ranking(table, "times").tolist() == [1, -1, 0, 2]
    with pytest.raises(UserError, match=r"'price' is not kept \(kept: times\)"):
        field_ranking(table, "price")


def test_metrics_of_rates_and_of_rankings():
    table = small_table(times=[2.0, math.nan, 0.0, 1.0])
    rates, rankings = baseline_scores(table, COUNTS, "ctr", ["times"])
    assert list(rankings) == ["item popularity", "times"]
    found = baseline_metrics(rates, rankings, table.click, table.request, RankingMetrics(table, [2]))
    assert set(found["times"]) == {"auc", "gauc", "ndcg@2", "ndcg"}
    assert found["times"]["auc"] == 1.0 and found["times"]["ndcg@2"] == 1.0
    assert {"auc", "gauc", "log_loss", "ne", "ece", "ndcg@2"} <= set(found["item rate"])
    assert found["global rate"]["auc"] == 0.5


def test_without_counts_only_fields_are_left():
    rates, rankings = baseline_scores(small_table(times=[1.0] * 4), None, "ctr", ["times"])
    assert rates == {} and list(rankings) == ["times"]
