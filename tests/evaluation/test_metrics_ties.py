"""Equal scores share their places: metrics are the mean over all orders of those that tie, whatever order rows have."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from equipoise.evaluation.front.axes import Measured
from equipoise.evaluation.front.points import TradeOffScorer
from equipoise.evaluation.metrics import ScoreTable
from equipoise.evaluation.metrics.list_metrics import RankingMetrics
from equipoise.evaluation.metrics.ranking import (
    coverage,
    exposure_shares,
    intra_list_diversity,
    mean_of_top,
    rank_requests,
    request_ndcg,
)
from equipoise.evaluation.report import winner

REQUEST = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 2])
SCORE = np.array([0.5, 0.5, 0.9, 0.5, 0.1, 0.3, 0.3, 0.3, 0.3, 0.2])
PATHS = np.array([[0, 0], [0, 1], [1, 2], [1, 2], [2, 3], [0, 0], [0, 0], [1, 2], [3, 4], [4, 5]])
VALUES = np.arange(10.0)


def _orders() -> list[np.ndarray]:
    """Scores that break the ties in every order, each pair of the two requests' orders."""
    found = []
    for first in itertools.permutations(range(3)):
        for second in itertools.permutations(range(4)):
            score = SCORE.copy()
            score[[0, 1, 3]] += 1e-3 * np.array(first)
            score[5:9] += 1e-3 * np.array(second)
            found.append(score)
    return found


@pytest.mark.parametrize("cutoff", [1, 2, 3, 4, None])
def test_metrics_are_the_mean_over_the_orders_of_ties(cutoff: int | None) -> None:
    measures = {
        "ild": lambda ranking: np.nan_to_num(intra_list_diversity(ranking, PATHS, cutoff)),
        "coverage": lambda ranking: coverage(ranking, PATHS[:, 1], cutoff),
        "exposure": lambda ranking: exposure_shares(ranking, PATHS[:, 0], 5, cutoff)[0],
        "mean": lambda ranking: mean_of_top(ranking, VALUES, cutoff),
    }
    for name, measure in measures.items():
        mean = np.mean([measure(rank_requests(REQUEST, score)) for score in _orders()], axis=0)
        assert measure(rank_requests(REQUEST, SCORE)) == pytest.approx(mean, abs=1e-12), name


def _shuffled(table: ScoreTable, seed: int) -> ScoreTable:
    rows = np.random.default_rng(seed).permutation(len(table))
    rows = rows[np.argsort(table.request[rows], kind="stable")]
    columns = ("request", "item", "user", "click", "conversion", "pctr", "pcvr")
    return replace(table, **{name: np.asarray(getattr(table, name))[rows] for name in columns})


@pytest.fixture
def tied_table() -> ScoreTable:
    """Ten requests whose scores take three values."""
    generator = np.random.default_rng(4)
    request = np.repeat(np.arange(10), generator.integers(1, 9, 10))
    draw = generator.integers
    size = len(request)
    items = {name: np.array([f"{name}{item % n}" for item in range(20)]) for name, n in (("kind", 5), ("brand", 2))}
    return ScoreTable(
        request, draw(0, 20, size), [f"u{n}" for n in request], draw(0, 2, size), draw(0, 2, size),
        draw(1, 4, size) / 10, np.full(size, 0.5), items=items,
    )  # fmt: skip


def test_shuffling_rows_changes_no_metric(tied_table: ScoreTable) -> None:
    def measured(table: ScoreTable) -> dict[str, object]:
        popularity = (table.item % 3).astype(float)
        found = RankingMetrics(table, (2, 3), ("kind",), "kind", "brand", (), popularity)(table.pctr)
        nested = {name: value for name, value in found.items() if isinstance(value, dict)}
        groups = {name: value.pop("groups") for name, value in nested.items()}
        groups |= {f"{name}.{key}": number for name, value in nested.items() for key, number in value.items()}
        return {**{name: value for name, value in found.items() if name not in nested}, **groups}

    expected = measured(tied_table)
    for seed in range(5):
        found = measured(_shuffled(tied_table, seed))
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, abs=1e-12, nan_ok=True), name


def test_the_front_measures_ties_as_the_evaluation_does(tied_table: ScoreTable) -> None:
    measured = Measured(cutoff=2, diversity_attributes=("kind",), category_attribute="kind", provider_attribute="brand")
    scorer = TradeOffScorer(tied_table, measured, 20, 0)
    metrics = RankingMetrics(tied_table, (2,), ("kind",), "kind", "brand")(tied_table.pctr)
    values = scorer.axes_of(tied_table.pctr, ("ild", "coverage", "exposure_ratio"))[:, 0]
    assert values == pytest.approx([metrics["ild@2"], metrics["coverage@2"], metrics["exposure@2"]["min_max"]])
    other = TradeOffScorer(_shuffled(tied_table, 1), measured, 20, 0)
    found = other.axes_of(other.table.pctr, scorer.axes)
    assert found == pytest.approx(scorer.axes_of(tied_table.pctr, scorer.axes), nan_ok=True)


def test_a_request_of_clicks_alone_has_an_ndcg_of_exactly_one() -> None:
    request = np.repeat(np.arange(40), np.arange(1, 41))
    ranking = rank_requests(request, np.zeros(len(request)))
    assert set(request_ndcg(ranking, np.full(len(request), 1.0), 10).tolist()) == {1.0}


def test_rounding_wins_nothing() -> None:
    assert [winner(*pair) for pair in ((-2e-16, -2e-16), (1e-16, 3e-16), (1e-6, 1e-5), (-1e-5, -1e-6))] == [
        "no clear winner", "no clear winner", "ours wins", "the baseline wins",
    ]  # fmt: skip
