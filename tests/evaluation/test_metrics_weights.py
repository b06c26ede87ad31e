"""Weighed metrics against scikit-learn's sample_weight, and against rows that are repeated."""

import numpy as np
import pytest
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import mean_squared_error, ndcg_score, roc_auc_score

from equipoise.evaluation.baselines import TrainCounts, rate_baselines
from equipoise.evaluation.front.axes import Measured
from equipoise.evaluation.front.points import TradeOffScorer
from equipoise.evaluation.front.trade_off import TradeOff
from equipoise.evaluation.metrics.bootstrap import (
    request_draws,
    resampled_auc,
    resampled_gauc,
    resampled_mean,
    resampled_ne,
)
from equipoise.evaluation.metrics.calibration import calibration_bins
from equipoise.evaluation.metrics.list_metrics import RankingMetrics
from equipoise.evaluation.metrics.own_targets import count_metrics, value_metrics
from equipoise.evaluation.metrics.pointwise import auc, calibration_error, gauc, normalized_entropy, target_metrics
from equipoise.evaluation.metrics.score_table import ScoreTable
from equipoise.evaluation.metrics.user_groups import group_gaps
from equipoise.evaluation.report import evaluate_table

COUNT = 600


@pytest.fixture
def rows() -> dict[str, np.ndarray]:
    """Requests of six rows, probabilities with ties, and whole-number weights."""
    rng = np.random.default_rng(5)
    probability = rng.uniform(0.05, 0.95, COUNT).round(2)
    weight = rng.integers(1, 5, COUNT)
    weight[: -weight.sum() % 15] += 1  # so that bins of equal mass hold whole rows
    return {
        "label": (rng.random(COUNT) < probability).astype(np.int8),
        "probability": probability,
        "request": np.repeat(np.arange(COUNT // 6), 6),
        "user": np.repeat(np.arange(COUNT // 12), 12),
        "weight": weight.astype(float),
    }


def repeated(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    times = rows["weight"].astype(int)
    return {name: np.repeat(values, times) for name, values in rows.items() if name != "weight"}


def test_all_pointwise_metrics_are_those_of_repeated_rows(rows: dict[str, np.ndarray]) -> None:
    weighed = target_metrics(*(rows[n] for n in ("label", "probability", "request", "user", "weight")))
    twice = target_metrics(*(repeated(rows)[n] for n in ("label", "probability", "request", "user")))
    plain = target_metrics(*(rows[n] for n in ("label", "probability", "request", "user")))
    assert weighed == pytest.approx(twice, abs=1e-12)
    assert all(abs(weighed[name] - plain[name]) > 1e-5 for name in weighed)


def test_scikit_learn_agrees(rows: dict[str, np.ndarray]) -> None:
    label, probability, weight = rows["label"], rows["probability"], rows["weight"]
    metrics = target_metrics(label, probability, rows["request"], weight=weight)
    assert metrics["auc"] == pytest.approx(roc_auc_score(label, probability, sample_weight=weight), abs=1e-12)
    loss = sklearn_log_loss(label, probability, sample_weight=weight)
    assert metrics["log_loss"] == pytest.approx(loss, abs=1e-12)
    rate = np.average(label, weights=weight)
    base = sklearn_log_loss(label, np.full(COUNT, rate), sample_weight=weight)
    assert metrics["ne"] == pytest.approx(loss / base, abs=1e-12)
    total, below = 0.0, 0.0
    for number in range(COUNT // 6):
        own = rows["request"] == number
        if 0 < label[own].sum() < 6:
            total += roc_auc_score(label[own], probability[own], sample_weight=weight[own]) * weight[own].sum()
            below += weight[own].sum()
    assert metrics["gauc"] == pytest.approx(total / below, abs=1e-12)
    values = value_metrics(label.astype(float), probability, rows["request"], weight=weight)
    assert values["rmse"] ** 2 == pytest.approx(mean_squared_error(label, probability, sample_weight=weight))
    counts = repeated(rows)
    assert count_metrics(label.astype(float), probability, rows["request"], weight=weight)["deviance"] == (
        pytest.approx(
            count_metrics(counts["label"].astype(float), counts["probability"], counts["request"])["deviance"]
        )
    )


def test_ece_and_bins_of_equal_weights_are_the_plain_ones(rows: dict[str, np.ndarray]) -> None:
    label, probability = rows["label"], rows["probability"]
    ones = np.full(COUNT, 3.0)
    plain, same = calibration_bins(label, probability), calibration_bins(label, probability, weight=ones)
    assert calibration_error(label, probability, weight=ones) == pytest.approx(calibration_error(label, probability))
    for one, other in zip(plain, same, strict=True):
        assert other["rows"] == one["rows"]
        assert (other["predicted"], other["observed"]) == pytest.approx((one["predicted"], one["observed"]))
        assert other["interval"] == pytest.approx(one["interval"])
    weighed = calibration_bins(label, probability, weight=rows["weight"])
    assert len(weighed) == 15 and sum(one["rows"] for one in weighed) < COUNT


def test_resamples_weigh_rows_too(rows: dict[str, np.ndarray]) -> None:
    """A resample is the metric on rows whose weight is multiplied by how often their request is drawn."""
    label, probability, request, weight = (rows[n] for n in ("label", "probability", "request", "weight"))
    draws = list(request_draws(COUNT // 6, 5, 3))
    found = {
        auc: resampled_auc(label, probability, request, 5, 3, weight),
        normalized_entropy: resampled_ne(label, probability, request, 5, 3, weight),
        lambda y, p, w: gauc(y, p, request, w): resampled_gauc(label, probability, request, 5, 3, weight),
    }
    for metric, samples in found.items():
        for sample, drawn in zip(samples, draws, strict=True):
            assert sample == pytest.approx(metric(label, probability, weight * drawn[request]), abs=1e-9)
    values, of_request = np.arange(COUNT // 6) / 10, np.linspace(1, 2, COUNT // 6)
    assert resampled_mean(values, 5, 3, of_request) == pytest.approx(
        [np.average(values, weights=of_request * drawn) for drawn in draws]
    )


def table_of(rows: dict[str, np.ndarray], weight: np.ndarray | None) -> ScoreTable:
    count = len(rows["label"])
    return ScoreTable(
        request=rows["request"],
        item=np.arange(count) % 40,
        user=rows["user"].astype(str),
        click=rows["label"],
        conversion=np.zeros(count, np.int8),
        pctr=rows["probability"],
        user_groups={"age": np.where(rows["user"] % 2, "old", "young")},
        weight=weight,
    )


def test_ndcg_weighs_requests_as_scikit_learn_and_gains_by_row(rows: dict[str, np.ndarray]) -> None:
    rng = np.random.default_rng(2)
    rows["probability"] = rng.permutation(COUNT) / COUNT  # no ties
    by_request = rng.uniform(0.5, 3.0, COUNT // 6)
    metrics = RankingMetrics(table_of(rows, np.repeat(by_request, 6)), [3])
    gain, score = rows["label"].reshape(-1, 6).astype(float), rows["probability"].reshape(-1, 6)
    kept = gain.sum(1) > 0
    expected = ndcg_score(gain[kept], score[kept], k=3, sample_weight=by_request[kept])
    assert metrics.ndcgs(rows["probability"])["ndcg@3"] == pytest.approx(expected, abs=1e-12)
    metrics = RankingMetrics(table_of(rows, rows["weight"]), [3])
    gain = gain * rows["weight"].reshape(-1, 6)
    mean = rows["weight"].reshape(-1, 6).mean(1)
    expected = ndcg_score(gain[kept], score[kept], k=3, sample_weight=mean[kept])
    found = metrics.ndcgs(rows["probability"])["ndcg@3"]
    assert found == pytest.approx(expected, abs=1e-12)
    scorer = TradeOffScorer(table_of(rows, rows["weight"]), Measured(3), 0, 0)
    assert scorer([TradeOff()]).of(["ndcg"])[0, 0] == pytest.approx(expected, abs=1e-12)


def test_a_report_weighs_all_of_its_metrics(rows: dict[str, np.ndarray], tmp_path) -> None:
    table = table_of(rows, rows["weight"])
    table.save(tmp_path / "scores.parquet")
    table = ScoreTable.load(tmp_path / "scores.parquet")
    np.testing.assert_array_equal(table.weight, rows["weight"])
    counts = TrainCounts.count(table.user, table.item, table.click, table.conversion, rows["weight"])
    report = evaluate_table(table, counts, cutoffs=[3], resamples=20)
    assert report["weighed"] and report["rows"] == COUNT and report["clicks"] == int(rows["label"].sum())
    ours = report["pointwise"]["ctr"]
    assert ours["auc"] == auc(rows["label"], rows["probability"], rows["weight"])
    known = report["baselines"]["ctr"]
    popular = np.bincount(table.item[table.click == 1], rows["weight"][table.click == 1], 40)[table.item]
    assert known["item popularity"]["auc"] == auc(rows["label"], popular, rows["weight"])
    low, high = report["against_baseline"]["ctr"]["auc"]["ours_interval"]
    assert low < ours["auc"] < high
    young = table.user_groups["age"] == "young"
    gaps = group_gaps(rows["label"], rows["probability"], table.user_groups["age"], weight=rows["weight"])
    assert report["user_groups"]["age"] == gaps
    assert gaps["groups"]["young"]["auc"] == auc(*(rows[n][young] for n in ("label", "probability", "weight")))
    assert "weighed" not in evaluate_table(table_of(rows, None), None, cutoffs=[3], resamples=0)


def test_rates_of_weighed_counts_are_those_of_repeated_rows(rows: dict[str, np.ndarray]) -> None:
    names = ("user", "request", "label", "label")
    weighed = TrainCounts.count(*(rows[name] for name in names), rows["weight"])
    often = TrainCounts.count(*(repeated(rows)[name] for name in names))
    for one, other in zip(
        rate_baselines(weighed, "ctr", rows["request"], rows["user"]).values(),
        rate_baselines(often, "ctr", rows["request"], rows["user"]).values(),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-12)
