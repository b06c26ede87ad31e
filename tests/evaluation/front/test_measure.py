"""Vectorised measurement against the metrics of the evaluation, resamples against tables that are really resampled."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise.common.errors import UserError
from equipoise.evaluation.front.axes import Measured, read_axes, read_axis
from equipoise.evaluation.front.choice import by_constraint, by_weights
from equipoise.evaluation.front.constraint import parse_constraints
from equipoise.evaluation.front.grid import Grid
from equipoise.evaluation.front.points import TradeOffScorer
from equipoise.evaluation.front.trade_off import TradeOff, Utilities
from equipoise.evaluation.metrics.bootstrap import request_draws
from equipoise.evaluation.metrics.list_metrics import RankingMetrics, utility
from equipoise.evaluation.metrics.ranking import ndcg, rank_requests
from equipoise.evaluation.metrics.score_table import ScoreTable

ALL = Measured(3, ("department", "category"), "category", "provider", "price")
POINTS = Grid({"diversity": [0, 0.5, 2], "fairness": [0, 1]}).points()


def by_metrics(table: ScoreTable, omega: dict, cutoff: int) -> dict[str, float]:
    """The same axes from the metrics of `equipoise evaluate`, one ranking at a time."""
    score = utility(table, omega)
    found = RankingMetrics(table, [cutoff], ("department", "category"), "category", "provider")(score)
    ranking = rank_requests(table.request, score)
    worth = table.clicked_conversion * table.fields["price"]
    earned = (worth[ranking.row] * ranking.shown(cutoff)).sum() / ranking.requests
    return {
        "ndcg": found[f"ndcg@{cutoff}"],
        "ndcg_click": ndcg(ranking, table.click.astype(float), cutoff),
        "ndcg_conversion": ndcg(ranking, table.clicked_conversion.astype(float), cutoff),
        "ild": found[f"ild@{cutoff}"],
        "exposure_ratio": found[f"exposure@{cutoff}"]["min_max"],
        "coverage": found[f"coverage@{cutoff}"],
        "value": earned,
    }


@given(st.integers(0, 200), st.sampled_from([1, 3, 20]))
def test_values_are_those_of_the_evaluation(random_table, seed, cutoff):
    table = random_table(seed, requests=8)
    measurement = TradeOffScorer(table, dataclasses.replace(ALL, cutoff=cutoff), 0, 0)(POINTS)
    for point, values in zip(measurement.points, measurement.values, strict=True):
        expected = by_metrics(table, dict(point.omega), cutoff)
        found = dict(zip(measurement.axes, values, strict=True))
        assert found == pytest.approx({axis: expected[axis] for axis in found}, nan_ok=True)


def drawn_table(table: ScoreTable, times: np.ndarray) -> ScoreTable:
    """The table with each request repeated as often as it was drawn, under new numbers."""
    pieces, numbers = [], []
    for request, count in zip(np.unique(table.request), times, strict=True):
        for _ in range(count):
            numbers.append(np.full((table.request == request).sum(), len(pieces)))
            pieces.append(np.flatnonzero(table.request == request))
    rows = np.concatenate(pieces)
    changes = {name: getattr(table, name)[rows] for name in ("item", "user", "click", "conversion", "pctr", "pcvr")}
    return dataclasses.replace(
        table,
        request=np.concatenate(numbers),
        delta={name: values[rows] for name, values in table.delta.items()},
        fields={name: values[rows] for name, values in table.fields.items()},
        **changes,
    )


def test_resamples_are_those_of_resampled_tables(random_table):
    table = random_table(4, requests=25)
    measurement = TradeOffScorer(table, ALL, 12, 9)(POINTS)
    assert measurement.samples.shape == (len(POINTS), 7, 12)
    for number, times in enumerate(request_draws(25, 12, 9)):
        again = drawn_table(table, times)
        for point in (0, 3):
            expected = by_metrics(again, dict(POINTS[point].omega), 3)
            for column, axis in enumerate(measurement.axes):
                if axis != "coverage":  # its level is moved, see below
                    assert measurement.samples[point, column, number] == pytest.approx(expected[axis]), axis


def test_coverage_keeps_the_spread_of_its_resamples_but_not_their_lower_level(random_table):
    table = random_table(4, requests=25)
    measured = Measured(1, (), "category")
    measurement = TradeOffScorer(table, measured, 50, 9)(POINTS[:1])
    plain = RankingMetrics(table, [1], category_attribute="category")(utility(table, {}))["coverage@1"]
    raw = [
        RankingMetrics(again, [1], category_attribute="category")(utility(again, {}))["coverage@1"]
        for again in (drawn_table(table, times) for times in request_draws(25, 50, 9))
    ]
    column = measurement.axes.index("coverage")
    assert measurement.values[0, column] == pytest.approx(plain)
    assert measurement.samples[0, column] == pytest.approx(np.clip(np.array(raw) + plain - np.mean(raw), 0, 1))


def test_requests_of_one_candidate_and_a_nan_score(random_table):
    table = random_table(1, requests=5)
    measure = TradeOffScorer(table, Measured(2), 0, 0)
    score = np.arange(len(table), dtype=float)
    score[0] = np.nan
    top = measure._ranked(score).top_RK
    ranking = rank_requests(table.request, score)
    for request in range(5):
        expected = ranking.row[(ranking.segment == request) & (ranking.rank < 2)]
        assert top[request][measure.filled_RK[request]].tolist() == expected.tolist()


def known_table(requests: int = 40) -> ScoreTable:
    """Relevance puts a clicked item of brand A first; δ of ω = 1 puts the equally clicked one of brand B there.

    In every second request three candidates: A (p = 0.4), B (p = 0.2), and a poor one. u of B overtakes A where
    ω δ > log 2, which δ = 0.7 reaches at ω = 1 and not at 0.9; the poor one (p = 0.01) overtakes A at ω = 8.
    """
    request = np.repeat(np.arange(requests), 3)
    return ScoreTable(
        request,
        np.tile([0, 1, 2], requests),
        ["u"] * len(request),
        np.tile([1, 1, 0], requests),
        np.zeros(len(request)),
        np.tile([0.4, 0.2, 0.01], requests),
        delta={"fairness": np.tile([0.0, 0.7, 0.0], requests) * np.repeat(np.arange(requests) % 2, 3)
               + np.tile([0.0, 0.0, 0.5], requests)},
        items={"provider": np.array(["A", "B", "C"])},
    )  # fmt: skip


def test_the_best_omega_of_a_built_table_is_found():
    table = known_table()
    # At k = 1 brand B is shown in every second request from ω = 1 on: parity of A and B among those shown.
    measurement = TradeOffScorer(table, Measured(1, provider_attribute="provider"), 100, 0)(
        Grid({"fairness": [0, 0.25, 0.5, 0.9, 1.0, 1.5, 8.0]}).points()
    )
    ratio = dict(zip([p.omega["fairness"] for p in measurement.points], measurement.of(["ndcg"])[:, 0], strict=True))
    # A and B are clicked alike: only the poor one costs.
    assert ratio == {0: 1, 0.25: 1, 0.5: 1, 0.9: 1, 1.0: 1, 1.5: 1, 8.0: 0.5}
    groups = TradeOffScorer(table, Measured(2, provider_attribute="provider"), 0, 0)
    assert groups.axes == ("ndcg", "ndcg_click", "exposure_ratio")
    shown = TradeOffScorer(table, Measured(1, provider_attribute="provider"), 0, 0)
    top = [shown._ranked(Utilities(table)(TradeOff({"fairness": w}))).top_RK[:, 0] % 3 for w in (0.9, 1.0)]
    assert set(top[0]) == {0} and (top[1] == np.arange(40) % 2).all()
    two = dataclasses.replace(
        table, items={"provider": np.array(["A", "B", "A"])}
    )  # without C, whose share of exposure is 0 at k = 1
    measurement = TradeOffScorer(two, Measured(1, provider_attribute="provider"), 100, 0)(measurement.points)
    where = parse_constraints("exposure_ratio>=0.4", measurement.axes, 1)
    assert measurement.points[by_constraint(measurement, where, "ndcg").point].omega == {"fairness": 1.0}
    best = by_weights(measurement, {"exposure_ratio": 1.0, "ndcg": 1.0})
    assert measurement.points[best.point].omega == {"fairness": 1.0}
    assert best.stability(measurement) == 1.0
    low, high = measurement.interval(best.point, "exposure_ratio", against=0)
    assert 0 < low < high  # B is never shown under pure relevance


def test_paired_differences_are_narrower_than_the_values(random_table):
    table = random_table(2, requests=60)
    measurement = TradeOffScorer(table, ALL, 200, 1)([POINTS[0], TradeOff({"diversity": 0.05, "fairness": 0.0})])
    low, high = measurement.interval(1, "ndcg")
    near, far = measurement.interval(1, "ndcg", against=0)
    assert far - near < (high - low) / 2
    assert measurement.interval(0, "ndcg", against=0) == [0.0, 0.0]


def test_resampling_is_repeatable(random_table):
    table = random_table(3)
    first, second = (TradeOffScorer(table, ALL, 20, 5)(POINTS).samples for _ in range(2))
    assert np.array_equal(first, second, equal_nan=True)
    assert not np.array_equal(first, TradeOffScorer(table, ALL, 20, 6)(POINTS).samples, equal_nan=True)


def test_relevance_weights_and_value_enter_the_utility(random_table):
    table = random_table(0)
    utilities = Utilities(table, ("price",))
    found = utilities(TradeOff({"diversity": 2.0}, {"cvr": 0.5}, {"price": 3.0}))
    expected = np.log(table.pctr) + 0.5 * np.log(table.pcvr) + 2 * table.delta["diversity"]
    assert found == pytest.approx(expected + 3 * np.log(table.fields["price"]))
    assert np.array_equal(utilities(TradeOff()), table.relevance)
    assert TradeOff({"diversity": 2.0, "fairness": 0.0}, {"cvr": 0.5}, {"price": 3.0}).words() == (
        "diversity 2, log cvr × 0.5, price^3"
    )
    assert TradeOff({"diversity": 0.0}, {"cvr": 1.0}, {"price": 0.0}).words() == "pure relevance"
    assert TradeOff({"diversity": 1.0}, {"cvr": 1.0}, {"price": 0.0}).servable
    assert not TradeOff({}, {"cvr": 2.0}).servable and not TradeOff({}, {}, {"price": 0.5}).servable


def test_value_rises_with_its_exponent(random_table):
    table = random_table(6, requests=200)
    points = [TradeOff({}, {}, {"price": exponent}) for exponent in (0.0, 1.0, 4.0)]
    value = TradeOffScorer(table, ALL, 0, 0)(points, ("price",)).of(["value"])[:, 0]
    assert value[0] * 1.2 < min(value[1:])  # labels are random, so more than price alone decides beyond that


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda table: Utilities(table, ("cost",)), "no field 'cost'"),
        (lambda table: Utilities(table, ("age",)), "not positive in"),
        (lambda table: Utilities(table)(TradeOff({"coverage": 1.0})), "'coverage' is no list-wise objective"),
        (lambda table: Utilities(table)(TradeOff({}, {"dwell": 1.0})), "'dwell' is no pointwise objective"),
        (lambda table: TradeOffScorer(table, Measured(3, value_field="age"), 0, 0), "field 'age'"),
        (lambda table: TradeOffScorer(table, Measured(3, category_attribute="colour"), 0, 0), "'colour'"),
    ],
)
def test_what_the_table_lacks_is_refused(random_table, make, words):
    with pytest.raises(UserError) as error:
        make(random_table(0))
    assert words in str(error.value)


def test_axes_are_read_by_name_objective_and_cutoff():
    axes = ALL.axes(conversions=True)
    assert axes == ("ndcg", "ndcg_click", "ndcg_conversion", "ild", "exposure_ratio", "coverage", "value")
    assert Measured(3).axes(conversions=False) == ("ndcg", "ndcg_click")
    assert read_axis(" fairness@3 ", axes, 3, "--axes") == "exposure_ratio"
    assert read_axes("ndcg,diversity", axes, 3) == ("ndcg", "ild")
    for text in ("ndcg", "ndcg,ndcg", "ild,diversity", "ndcg,profit", "ndcg,ild@5"):
        with pytest.raises(UserError, match="--axes"):
            read_axes(text, axes, 3)
