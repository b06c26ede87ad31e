"""What the figures of campaigns and explanations are computed from."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benchmarks.uses_campaign import TOP, _greedy, campaign_caps, coupon_values, gain
from benchmarks.uses_explain import DRAWS, alone, cases, effects
from equipoise.evaluation.metrics.score_table import ScoreTable
from equipoise.serving.allocation import allocate, violations
from equipoise.serving.recommender import Recommender


def table_of(requests: int = 12, candidates: int = 20) -> ScoreTable:
    rng = np.random.default_rng(0)
    count = requests * candidates
    item = np.concatenate([rng.permutation(24)[:candidates] for _ in range(requests)])
    click = rng.integers(0, 2, count)
    provider = np.array(["private" if number % 4 == 0 else "national" for number in range(24)], object)
    user = np.array(["u"] * count, object)
    return ScoreTable(
        np.repeat(np.arange(requests), candidates), item, user, click, click * 0, rng.random(count),
        items={"provider": provider},
    )  # fmt: skip


def test_both_ways_keep_the_same_caps() -> None:
    table = table_of()
    caps = campaign_caps(table)
    assert len(caps) == 25 and caps[-1].least == int(0.1 * 12 * TOP)
    ours = allocate(table.request, table.pctr, TOP, caps)
    greedy = _greedy(table.request, table.pctr, caps)
    assert violations(ours.chosen, table.request, TOP, caps) == violations(greedy, table.request, TOP, caps) == 0
    assert ours.value >= table.pctr[greedy].sum()


def test_the_gain_and_its_interval() -> None:
    theirs = np.arange(1.0, 41.0)
    value, (low, high) = gain(1.5 * theirs, theirs, 50)
    assert value == pytest.approx(0.5) and low == high == 0.5
    noisy = theirs * np.random.default_rng(0).uniform(0.5, 2.0, 40)
    value, (low, high) = gain(noisy, theirs, 500)
    assert low < value < high


def test_coupons_have_positive_values() -> None:
    values = coupon_values(["10000085436", "no such coupon"], "2017-10-01")
    assert (values > 0).all() and values[0] == values[1]  # the one that is known is also the mean of all


def test_named_titles_are_removed_together(tiny_export: Callable[..., Any]) -> None:
    recommender = Recommender.load(tiny_export("bert").folder)
    titles = [f"title {number} tea soap" for number in range(6)]
    cut = recommender.cut({"user": {"age": 40}, "history": titles, "candidates": ["i1"]})
    before, parts, changes = alone(recommender, cut)
    found = effects(recommender, cut, before, changes, np.random.default_rng(0))
    assert found.shape == (2 + DRAWS,)
    whole = recommender.rank({"age": 40}, ["i1"], history=titles).given[0].relevance
    single = [
        whole - recommender.rank({"age": 40}, ["i1"], history=titles[:n] + titles[n + 1 :]).given[0].relevance
        for n in range(6)
    ]
    kept = [titles[n] for n in range(6) if n not in np.argsort(single)[-3:]]
    without = recommender.rank({"age": 40}, ["i1"], history=kept).given[0].relevance
    assert found[0] == pytest.approx(whole - without, abs=1e-4)
    of_titles = [change for part, change in zip(parts, changes, strict=True) if part.where == "history"]
    assert of_titles == pytest.approx(single, abs=1e-4)


def test_too_few_long_histories_are_told(tiny_export: Callable[..., Any]) -> None:
    exported = tiny_export("bert")
    with pytest.raises(Exception, match="with long histories, 500 are needed"):
        cases(Recommender.load(exported.folder), exported.config.data.folder, 500)
