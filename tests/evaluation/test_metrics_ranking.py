"""Ranking metrics against hand-computed truths, naive loops, and the properties of an operating point."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import ndcg_score

from equipoise.common.errors import UserError
from equipoise.evaluation.metrics import ScoreTable
from equipoise.evaluation.metrics.list_metrics import RankingMetrics, utility
from equipoise.evaluation.metrics.ranking import (
    coverage,
    exposure,
    exposure_shares,
    gains,
    gini,
    intra_list_diversity,
    item_gini,
    ndcg,
    novelty,
    rank_requests,
    serendipity,
)
from equipoise.evaluation.metrics.table_lists import path_codes


def table_of(request, click, conversion, pctr, **more) -> ScoreTable:
    """A score table whose items are numbered row by row."""
    size = len(request)
    return ScoreTable(request, np.arange(size), ["u"] * size, click, conversion, pctr, **more)


def random_table(seed: int, requests: int = 30) -> ScoreTable:
    """Requests of 1 to 12 candidates with two adjustments and three item attributes."""
    generator = np.random.default_rng(seed)
    request = np.repeat(np.arange(requests), generator.integers(1, 13, requests))
    size = len(request)
    return ScoreTable(
        request,
        generator.integers(0, 40, size),
        [f"u{number}" for number in request],
        generator.integers(0, 2, size),
        generator.integers(0, 2, size),
        generator.random(size),
        generator.random(size),
        delta={name: generator.normal(size=size) for name in ("diversity", "fairness")},
        items={
            "department": np.array([f"d{item % 3}" for item in range(40)]),
            "category": np.array([f"c{item % 7}" for item in range(40)]),
            "provider": np.array([None if item % 9 == 0 else f"p{item % 2}" for item in range(40)], object),
        },
    )


@st.composite
def lists(draw):
    """Request numbers, integer scores with ties, and gains."""
    size = draw(st.integers(1, 30))
    request = np.sort(draw(arrays(np.int64, size, elements=st.integers(0, 5))))
    score = draw(arrays(np.int64, size, elements=st.integers(-3, 3))).astype(float)
    gain = draw(arrays(np.int64, size, elements=st.sampled_from([0, 1, 3]))).astype(float)
    return request, score, gain


def naive_ndcg(request, score, gain, cutoff) -> float:
    values = []
    for number in np.unique(request):
        mine = np.flatnonzero(request == number)
        order = sorted(mine, key=lambda row: -score[row])
        discounts = [
            1 / math.log2(place + 2) if cutoff is None or place < cutoff else 0.0 for place in range(len(mine))
        ]
        ideal = sum(g * d for g, d in zip(sorted(gain[mine], reverse=True), discounts, strict=True))
        found = 0.0
        for _, tied in itertools.groupby(zip(order, discounts, strict=True), key=lambda pair: score[pair[0]]):
            rows, shared = zip(*tied, strict=True)
            found += sum(gain[list(rows)]) * sum(shared) / len(shared)
        if ideal > 0:
            values.append(found / ideal)
    return float(np.mean(values)) if values else math.nan


def test_gains():
    assert gains(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])).tolist() == [0, 0, 1, 3]


def test_ndcg_by_hand():
    request, gain = np.array([7, 7, 7, 2, 2]), np.array([0.0, 3.0, 1.0, 0.0, 0.0])
    ranking = rank_requests(request, np.array([3.0, 2.0, 1.0, 1.0, 1.0]))
    expected = (3 / math.log2(3) + 1 / 2) / (3 + 1 / math.log2(3))  # request 2 has no gain and is left out
    assert ndcg(ranking, gain) == pytest.approx(expected)
    assert ndcg(ranking, gain, 1) == 0.0
    assert math.isnan(ndcg(ranking, np.zeros(5)))


@given(lists(), st.sampled_from([1, 2, 5, None]))
def test_ndcg_is_the_naive_one(rows, cutoff):
    request, score, gain = rows
    assert ndcg(rank_requests(request, score), gain, cutoff) == pytest.approx(
        naive_ndcg(request, score, gain, cutoff), nan_ok=True
    )


@pytest.mark.parametrize("cutoff", [1, 5, 20])
@pytest.mark.parametrize("decimals", [8, 1, 0])  # few decimals: many ties, which share their discounts
def test_ndcg_is_that_of_sklearn(cutoff, decimals):
    generator = np.random.default_rng(3)
    score, gain = generator.random((50, 20)), generator.choice([0.0, 1.0, 3.0], (50, 20), p=[0.5, 0.3, 0.2])
    score = score.round(decimals)
    ranking = rank_requests(np.repeat(np.arange(50), 20), score.ravel())
    assert ndcg(ranking, gain.ravel(), cutoff) == pytest.approx(ndcg_score(gain, score, k=cutoff))


def test_ties_keep_the_order_of_rows_and_nan_is_last():
    ranking = rank_requests(np.array([1, 1, 1, 1, 0]), np.array([0.5, math.nan, 0.7, 0.5, 0.5]))
    assert ranking.row.tolist() == [4, 2, 0, 3, 1]
    assert ranking.rank.tolist() == [0, 0, 1, 2, 3]
    assert ranking.tie.tolist() == [0, 1, 2, 2, 3]


def test_the_order_of_tied_rows_does_not_count():
    gain = np.array([3.0, 1.0, 0.0, 0.0])
    found = [
        ndcg(rank_requests(np.zeros(4, int), np.zeros(4)), gain[order], 2) for order in ([0, 1, 2, 3], [3, 2, 1, 0])
    ]
    assert found == pytest.approx([(1 + 1 / math.log2(3)) / (3 + 1 / math.log2(3))] * 2)


@given(lists(), st.integers(-1000, 1000))
def test_ranking_ignores_a_constant_per_request(rows, constant):
    request, score, _ = rows
    shifted = rank_requests(request, score + constant * (request + 1))
    assert shifted.row.tolist() == rank_requests(request, score).row.tolist()


def test_omega_zero_is_the_relevance_ranking():
    table = random_table(0)
    expected = rank_requests(table.request, table.pctr * table.pcvr).row
    for omega in ({}, {"diversity": 0.0, "fairness": 0.0}):
        np.testing.assert_array_equal(rank_requests(table.request, utility(table, omega)).row, expected)


def test_utility_by_hand():
    table = table_of([0, 0], [0, 1], [0, 0], [0.5, 0.0], pcvr=[0.25, 1.0], delta={"diversity": [1.0, -2.0]})
    found = utility(table, {"diversity": 0.5})
    assert found[0] == pytest.approx(math.log(0.125) + 0.5)
    assert np.isfinite(found[1]) and found[1] < -700  # pCTR 0 ranks last, and stays a number
    without = table_of([0], [0], [0], [0.5])
    assert utility(without, {})[0] == pytest.approx(math.log(0.5))


def test_an_unknown_adjustment_is_named():
    with pytest.raises(UserError, match=r"'fairness'.*diversity"):
        utility(table_of([0], [0], [0], [0.5], delta={"diversity": [0.0]}), {"fairness": 1.0})


def test_ild_by_hand():
    table = table_of(
        [0, 0, 0, 1],
        [0] * 4,
        [0] * 4,
        [0.9, 0.8, 0.7, 0.5],
        items={"department": np.array(["a", "a", "b", "a"]), "category": np.array(["x", "y", "x", "x"])},
    )
    ranking, paths = rank_requests(table.request, table.pctr), path_codes(table, ("department", "category"))
    # pairs: (a/x, a/y) shares one level of two, the others none: b/x and a/x differ from the coarse end
    assert intra_list_diversity(ranking, paths) == pytest.approx(1 - (0.5 + 0 + 0) / 3)
    assert intra_list_diversity(ranking, paths, 2) == pytest.approx(0.5)
    assert math.isnan(intra_list_diversity(ranking, paths, 1))  # one item has no pair


@pytest.mark.parametrize("cutoff", [2, 5, None])
def test_ild_is_the_naive_one(cutoff):
    table = random_table(1)
    names = ["department", "category", "provider"]
    ranking = rank_requests(table.request, table.pctr)
    values = []
    for number in np.unique(table.request):
        mine = np.flatnonzero(table.request == number)
        top = sorted(mine, key=lambda row: -table.pctr[row])[:cutoff]
        paths = [[table.items[name][table.item[row]] for name in names] for row in top]
        shares = [
            sum(a[: level + 1] == b[: level + 1] for level in range(len(names))) / len(names)
            for a, b in itertools.combinations(paths, 2)
        ]
        if shares:
            values.append(1 - np.mean(shares))
    assert intra_list_diversity(ranking, path_codes(table, names), cutoff) == pytest.approx(np.mean(values))


def test_coverage_by_hand():
    ranking = rank_requests(np.array([0, 0, 0, 1, 1]), np.array([3.0, 2.0, 1.0, 2.0, 1.0]))
    codes = np.array([0, 1, 2, 0, 3])
    assert coverage(ranking, codes, 1) == 1 / 4
    assert coverage(ranking, codes, 2) == 3 / 4
    assert coverage(ranking, codes, 3) == 1.0


def test_exposure_by_hand():
    ranking = rank_requests(np.array([0, 0, 0, 0]), np.array([4.0, 3.0, 2.0, 1.0]))
    codes, names = np.array([0, 1, 1, 1]), ["National", "Private"]
    found = exposure(ranking, codes, names, 2)
    total = 1 + 1 / math.log2(3)
    assert list(found["groups"]) == ["Private", "National"]  # largest first
    assert found["groups"]["National"] == pytest.approx((1 / total) / 0.25)
    assert found["groups"]["Private"] == pytest.approx((1 / math.log2(3) / total) / 0.75)
    assert found["min_max"] == pytest.approx(found["groups"]["Private"] / found["groups"]["National"])
    assert found["gap"] == pytest.approx(1 / total - 0.25)
    first, second = found["groups"]["National"], found["groups"]["Private"]
    assert found["least"] == second and found["gini"] == pytest.approx(0.25 * 0.75 * (first - second))
    shares = np.array([1, 1 / math.log2(3)]) / total
    assert found["entropy"] == pytest.approx(-(shares * np.log(shares)).sum() / math.log(2))


def test_gini_is_the_mean_difference():
    generator = np.random.default_rng(0)
    for counts in (generator.integers(0, 9, 13), np.array([0, 0, 5]), np.array([2, 2, 2, 2])):
        pairs = np.abs(counts[:, None] - counts).mean()
        assert gini(counts) == pytest.approx(pairs / (2 * counts.mean()))
    assert gini(np.array([0, 0, 5])) == pytest.approx(1 - 1 / 3) and math.isnan(gini(np.zeros(3)))


def test_what_lists_show_of_the_catalogue_by_hand():
    # Items 7, 8, 9 in both requests; 7 is on top of both, 8 second in the first, 9 in the second.
    request, item = np.array([0, 0, 0, 1, 1, 1]), np.array([7, 8, 9, 7, 8, 9])
    ranking = rank_requests(request, np.array([3.0, 2.0, 1.0, 3.0, 1.0, 2.0]))
    assert item_gini(ranking, item, 1) == pytest.approx(gini(np.array([2, 0, 0])))
    assert item_gini(ranking, item, 2) == pytest.approx(gini(np.array([2, 1, 1])))
    clicks = np.array([5.0, 0.0, 1.0])[item - 7]
    information = -np.log2((clicks + 1) / 9)
    assert novelty(ranking, information, 2) == pytest.approx(
        ((-math.log2(6 / 9) - math.log2(1 / 9)) / 2 + (-math.log2(6 / 9) - math.log2(2 / 9)) / 2) / 2
    )
    popular = rank_requests(request, clicks)  # 7, 9, 8: among the first two 8 is a surprise
    click = np.array([1, 1, 0, 0, 1, 1])
    assert serendipity(ranking, click, popular, 2) == pytest.approx((1 / 2 + 0) / 2)
    assert serendipity(ranking, click, popular, 3) == 0.0  # of whole lists nothing is unexpected
    table = ScoreTable(request, item, ["u"] * 6, click, click * 0, np.array([0.6, 0.5, 0.4, 0.6, 0.4, 0.5]))
    found = RankingMetrics(table, [2], popularity=clicks)(table.pctr)
    assert found["catalogue@2"] == 1.0 and found["novelty@2"] == pytest.approx(novelty(ranking, information, 2))
    assert found["serendipity@2"] == pytest.approx(0.25)


def test_exposure_of_one_group_is_parity():
    found = exposure(rank_requests(np.array([0, 0]), np.array([1.0, 2.0])), np.zeros(2, np.int64), ["only"])
    assert found["groups"] == {"only": pytest.approx(1.0)}
    assert math.isnan(found["min_max"]) and found["gap"] == pytest.approx(0.0)


@pytest.mark.parametrize("cutoff", [1, 3, None])
def test_exposure_shares_sum_to_one_and_a_random_order_is_parity(cutoff):
    generator = np.random.default_rng(2)
    # long lists hold group 1 mostly, short ones group 0: only shares within a request see parity here
    request = np.r_[np.repeat(np.arange(3000), 2), np.repeat(np.arange(3000, 4000), 30)]
    codes = (generator.random(len(request)) < np.where(request < 3000, 0.2, 0.8)).astype(np.int64)
    exposed, present = exposure_shares(rank_requests(request, generator.random(len(request))), codes, 2, cutoff)
    assert exposed.sum() == pytest.approx(1.0) and present.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(exposed / present, 1.0, atol=0.05)


def test_ranking_metrics_names_and_missing_attributes():
    table = random_table(4)
    found = RankingMetrics(table, [3], ["department", "category"], "category", "provider")(table.relevance)
    always = {"ndcg@3", "ndcg", "catalogue@3", "item_gini@3"}
    assert set(found) == {*always, "ild@3", "ild", "coverage@3", "exposure@3", "exposure"}
    assert set(found["exposure"]["groups"]) == {"p0", "p1", "unknown"}
    assert set(RankingMetrics(table, [3])(table.relevance)) == always
    clicks = np.ones(len(table))
    assert set(RankingMetrics(table, [3], popularity=clicks)(table.relevance)) == {
        *always, "novelty@3", "serendipity@3",
    }  # fmt: skip
    with pytest.raises(UserError, match=r"'brand'.*category, department, provider"):
        RankingMetrics(table, [3], category_attribute="brand")


@pytest.mark.filterwarnings("error")
def test_an_empty_table_gives_nan():
    table = table_of([], [], [], [], items={"category": np.array(["a"])})
    found = RankingMetrics(table, [2], ["category"], "category", "category")(table.relevance)
    assert all(math.isnan(found[name]) for name in ("ndcg@2", "ndcg", "ild@2", "coverage@2"))
    assert found["exposure"]["groups"] == {}
