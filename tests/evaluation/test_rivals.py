"""A model beside the methods that a shop would use instead: paired intervals, and words that follow them."""

import io
import math

import numpy as np
import pytest
from rich.console import Console

from equipoise.evaluation.metrics import ScoreTable
from equipoise.evaluation.metrics.bootstrap import interval, request_draws, resampled_mean, resampled_ne
from equipoise.evaluation.metrics.pointwise import log_loss, normalized_entropy, uauc
from equipoise.evaluation.report import evaluate_table, json_ready
from equipoise.evaluation.report_tables import report_parts
from equipoise.evaluation.rivals import judgement, rival_sentences
from equipoise.launch.summary import rivals_tables


def _sigmoid(logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logit))


@pytest.fixture(scope="module")
def report() -> dict:
    """Clicks by known log-odds: ours sees them with little noise, trees as they are, a linear model with much."""
    generator = np.random.default_rng(3)
    request = np.repeat(np.arange(150), 10)
    logit = generator.normal(-1, 1.5, 1500)
    click = (generator.random(1500) < _sigmoid(logit)).astype(int)

    def seen(noise: float) -> np.ndarray:
        return _sigmoid(logit + noise * generator.normal(size=1500))

    fields = {"times": generator.poisson(_sigmoid(logit)).astype(float)}
    table = ScoreTable(
        request, request % 7, [f"u{r % 50}" for r in request], click, 0 * click, seen(0.7), fields=fields
    )
    fitted = {"ctr": {"trees": seen(0.0), "linear": seen(3.0), "prior": table.pctr.copy()}}
    return evaluate_table(table, None, [5], resamples=100, fitted=fitted, bought_before="times")


def test_each_rival_has_paired_differences(report: dict) -> None:
    rivals = report["comparisons"]["ctr"]
    assert list(rivals) == ["prior", "trees", "linear", "bought before"]
    assert set(rivals["trees"]) == {"auc", "gauc", "ne", "ndcg@5"} and set(rivals["bought before"]) == {
        "auc", "gauc", "ndcg@5"
    }  # fmt: skip
    for metric, row in rivals["trees"].items():
        low, high = row["difference_interval"]
        assert low < row["difference"] == row["ours"] - row["theirs"] < high
        assert row["ours"] == report["pointwise"]["ctr"][metric]
        assert row["theirs"] == pytest.approx(report["baselines"]["ctr"]["trees"][metric])
    assert all(row["difference_interval"] == [0.0, 0.0] for row in rivals["prior"].values())


def test_words_follow_the_intervals(report: dict) -> None:
    rivals = report["comparisons"]["ctr"]
    assert {judgement(metric, row) for metric, row in rivals["prior"].items()} == {"no clear difference"}
    assert judgement("auc", rivals["trees"]["auc"]) == judgement("ne", rivals["trees"]["ne"]) == "worse"
    assert judgement("auc", rivals["linear"]["auc"]) == judgement("ne", rivals["linear"]["ne"]) == "better"
    assert judgement("auc", {"difference": 1.0}) == ""
    assert judgement("auc", {"difference_interval": [None, None]}) == judgement("auc", {}) == ""
    sentences = rival_sentences(json_ready(report["comparisons"]))
    assert sentences == rival_sentences(report["comparisons"])
    row = rivals["trees"]["auc"]
    assert f"AUC {row['ours']:.4f} ({row['difference']:+.4f}, 95% interval" in sentences[1]
    console = Console(file=io.StringIO(), width=10_000)
    for part in report_parts(report):
        console.print(part)
    console.print(*rivals_tables(json_ready(report)))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(sentence in text for sentence in sentences) and "unclear" in text
    assert not list(rivals_tables({"comparisons": {}}))


def test_without_resamples_nothing_is_judged(report: dict) -> None:
    generator = np.random.default_rng(1)
    table = ScoreTable([0] * 4 + [1] * 4, [0] * 8, ["a"] * 8, [0, 1] * 4, [0] * 8, generator.random(8))
    plain = evaluate_table(table, None, [2], resamples=0, fitted={"ctr": {"trees": generator.random(8)}})
    words = " ".join(rival_sentences(plain["comparisons"]) + plain["verdict"])
    assert "better than" not in words.replace("no better than", "") and "wins" not in words and "worse" not in words


def test_resampled_ne_counts_requests() -> None:
    generator = np.random.default_rng(2)
    request = np.repeat(np.arange(20), 5)
    label, probability = generator.integers(0, 2, 100), generator.uniform(0.1, 0.9, 100)
    found = resampled_ne(label, probability, request, 5, seed=4)
    for value, times in zip(found, request_draws(20, 5, 4), strict=True):
        rows = np.repeat(np.arange(100), times[request])
        assert value == pytest.approx(normalized_entropy(label[rows], probability[rows]))
    assert np.isnan(resampled_ne(np.zeros(4), np.full(4, 0.5), np.zeros(4, int), 3)).all()
    assert np.isnan(resampled_ne(np.empty(0), np.empty(0), np.empty(0, int), 3)).all()
    each = np.array([1.0, math.nan, 3.0])
    means = [np.nanmean(np.repeat(each, times)) for times in request_draws(3, 4, 0)]
    assert resampled_mean(each, 4, 0) == pytest.approx(means, nan_ok=True)
    assert interval(np.array([1.0, 1.0])) == [1.0, 1.0]
    assert log_loss(label, probability) > 0


def test_uauc_by_hand() -> None:
    """User a ranks 1 of 2 pairs right over two requests, b all, c has one label only: the mean is unweighted."""
    user = np.array(["a", "a", "a", "b", "b", "c"])
    label, score = np.array([1, 0, 0, 1, 0, 1]), np.array([0.5, 0.4, 0.6, 0.9, 0.1, 0.2])
    assert uauc(label, score, user) == pytest.approx((0.5 + 1.0) / 2)
    assert math.isnan(uauc(label[5:], score[5:], user[5:])) and math.isnan(uauc(label, score * np.nan, user))
