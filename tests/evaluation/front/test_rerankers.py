"""Re-ranked lists against plain greedy loops, and the space that methods cover beside trade-offs."""

from collections.abc import Callable

import numpy as np
import pytest

from equipoise.evaluation.front.axes import Measured
from equipoise.evaluation.front.points import Measurement, TradeOffScorer
from equipoise.evaluation.front.rerank_baselines import OURS, RerankedPoints, methods_of, rerank, volume_table, volumes
from equipoise.evaluation.front.trade_off import TradeOff
from equipoise.evaluation.metrics.ranking import exposure, rank_requests
from equipoise.evaluation.metrics.score_table import ScoreTable
from equipoise.evaluation.metrics.table_lists import path_codes
from equipoise.evaluation.rerankers import (
    BOOST,
    BOOST_P,
    DPP,
    MAX_SUM,
    MAX_SUM_P,
    MMR,
    PRICES,
    SMALL,
    STRENGTHS,
    GroupState,
    Rerank,
    Reranker,
    ways,
)

PATH = ("department", "category")
MEASURED = Measured(5, PATH, "category", "provider")


def greedy(table: ScoreTable, method: str, strength: float, cutoff: int) -> list[list[int]]:
    """The first places of each request, row numbers, by a loop over candidates."""
    paths, lists = path_codes(table, PATH), []
    alike = (paths[:, None] == paths[None]).mean(axis=2)

    def gain(row: int, placed: list[int]) -> float:
        if not placed:
            return 0.0
        if method == MMR:
            return -strength * float(np.mean([alike[row, other] for other in placed]))
        if method in (MAX_SUM, MAX_SUM_P):
            return strength * float(np.sum([1 - alike[row, other] for other in placed]))
        kernel = alike + SMALL * np.eye(len(alike))
        with_row = [*placed, row]
        dets = [np.linalg.slogdet(kernel[np.ix_(rows, rows)])[1] for rows in (placed, with_row)]
        return strength * max(dets[1] - dets[0], np.log(SMALL))

    chances = np.exp(table.relevance)
    unit = np.mean([chances[table.request == request].max() for request in np.unique(table.request)])
    base = chances / unit if method == MAX_SUM_P else table.relevance
    for request in np.unique(table.request):
        left, placed = np.flatnonzero(table.request == request).tolist(), []
        while left and len(placed) < cutoff:
            values = [base[row] + gain(row, placed) for row in left]
            placed.append(left.pop(int(np.argmax(np.round(values, 9)))))
        lists.append(placed)
    return lists


def shown(table: ScoreTable, score: np.ndarray, cutoff: int) -> list[list[int]]:
    ranking = rank_requests(table.request, score)
    return [
        ranking.row[(ranking.segment == number) & (ranking.rank < cutoff)].tolist()
        for number in range(ranking.requests)
    ]


@pytest.mark.parametrize("method", [MMR, MAX_SUM, DPP, MAX_SUM_P])
@pytest.mark.parametrize("seed", [0, 1])
def test_lists_are_those_of_a_plain_greedy_loop(
    random_table: Callable[..., ScoreTable], method: str, seed: int
) -> None:
    table = random_table(seed)
    rng = np.random.default_rng(seed)  # without ties of relevance, which the loop and the matrices break alike or not
    table.pctr = rng.uniform(0.05, 0.9, len(table))
    lists = Reranker(table, table.relevance, 5, PATH, "provider")
    for strength in STRENGTHS[method]:
        found = shown(table, lists.utility(Rerank(method, strength), GroupState()), 5)
        assert found == greedy(table, method, strength, 5)
    assert shown(table, lists.utility(Rerank(), GroupState()), 5) == shown(table, table.relevance, 5)


def unfair_table() -> ScoreTable:
    """200 requests of 8 candidates: those of provider p1 are a little less relevant."""
    rng = np.random.default_rng(3)
    request, item = np.repeat(np.arange(200), 8), np.tile(np.arange(8), 200)
    pctr = 1 / (1 + np.exp(1.5 + 1.0 * (item % 2) - 0.3 * rng.normal(size=1600)))
    click = (rng.random(1600) < pctr).astype(int)
    items = {
        "provider": np.array([f"p{n % 2}" for n in range(8)]),
        "category": np.array([f"c{n // 2}" for n in range(8)]),
    }
    return ScoreTable(request, item, [f"u{n}" for n in request], click, click, pctr, np.full(1600, 0.5), items=items)


def test_boosts_and_prices_bring_weak_groups_forward() -> None:
    table = unfair_table()
    lists = Reranker(table, table.relevance, 4, (), "provider")
    codes, names = np.array(lists.group_N), lists.names

    def ratio(score: np.ndarray) -> float:
        return float(exposure(rank_requests(table.request, score), codes, names, 4)["min_max"])  # type: ignore[arg-type]

    state = lists.state()
    assert state.lift["p0"] == 0 and 0.3 < state.lift["p1"] <= 1
    plain = ratio(table.relevance)
    boosted = [ratio(lists.utility(Rerank(fair=BOOST, lift=lift), GroupState(state.lift))) for lift in (0.4, 0.8)]
    assert plain + 0.05 < boosted[0] < boosted[1]
    priced = [ratio(lists.utility(Rerank(fair=PRICES, lift=lift), GroupState())) for lift in (0.2, 2.0)]
    assert plain + 0.02 < priced[0] < priced[1] and priced[1] > 0.95
    assert 0 <= state.prices[0.2]["p0"] <= state.prices[0.2]["p1"] <= 0.2
    later = lists.utility(Rerank(fair=PRICES, lift=2.0), state)  # prices go on where the split before left them
    assert ratio(later) > 0.95 and later[1] - table.relevance[1] == pytest.approx(state.prices[2.0]["p1"])


def test_methods_follow_the_axes() -> None:
    assert set(methods_of(MEASURED, ("ndcg", "ild", "exposure_ratio"))) == {
        "MMR + boost", "max-sum + boost", "DPP + boost", "MMR + prices", "max-sum of p + boost of p",
    }  # fmt: skip
    assert set(methods_of(MEASURED, ("ndcg", "ild"))) == {MMR, MAX_SUM, DPP, MAX_SUM_P}
    assert set(methods_of(MEASURED, ("ndcg", "exposure_ratio"))) == {BOOST, PRICES, BOOST_P}
    assert not methods_of(MEASURED, ("ndcg_click", "ndcg_conversion"))
    assert [way.words() for way in ways(MMR, None)][:2] == ["pure relevance", "MMR 0.25"]
    assert Rerank(MMR, 2.0, BOOST, 0.5).words() == "MMR 2, boost 0.5"


def test_space_is_measured_in_one_frame(random_table: Callable[..., ScoreTable]) -> None:
    table, axes = random_table(2, 60), ("ndcg", "ild", "exposure_ratio")
    scorer = TradeOffScorer(table, MEASURED, 40, 0)
    baselines, _ = rerank(table, scorer, axes)
    first = next(iter(baselines.values()))
    assert first.points[0] == Rerank(MMR, 0.0, BOOST, 0.0)
    columns = scorer.axes.index("ndcg"), scorer.axes.index("ild"), scorer.axes.index("exposure_ratio")
    plain = scorer([TradeOff()])
    np.testing.assert_allclose(first.values[0], plain.values[0, list(columns)])
    # What re-ranking reaches, called ours: no difference to itself, and less of the one that is part of it.
    whole = Measurement((TradeOff(),) * len(first.points), axes, first.values, first.samples)
    part = RerankedPoints(first.points[:1], first.values[:1], first.samples[:1])
    found = volumes(whole, {"same": first, "part": part}, axes)
    assert found["same"]["difference"] == 0 and found["same"]["difference_interval"] == [0, 0]
    assert found["part"]["hypervolume"] < found[OURS]["hypervolume"] <= 1
    low, high = found["part"]["difference_interval"]
    assert 0 <= low <= found["part"]["difference"] <= high + 1e-9 or low >= 0
    assert volume_table({"valid": found}, axes).row_count == 3
