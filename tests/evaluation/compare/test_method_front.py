"""Fronts of methods against values computed by hand."""

from typing import Any

import numpy as np
import pytest

from equipoise.common.errors import UserError
from equipoise.evaluation.compare.method_front import check_axes, default_axes, method_fronts
from equipoise.evaluation.compare.seeds import pool_runs
from tests.evaluation.compare.conftest import evaluation


def runs_of(record: Any, values: dict[str, list[tuple[float, float]]]) -> list[Any]:
    return pool_runs(
        [
            record(f"{method}{n}", evaluation(*pair), balancing={"method": method}, lora={"rank": n})
            for method, pairs in values.items()
            for n, pair in enumerate(pairs)
        ],
        "test",
    )


def test_hypervolume_and_igd_of_two_methods(record: Any) -> None:
    # Scaled by the ends of the methods' fronts: a at (0, 1) and (1, 0), b at (0.5, 0.5), which none dominates.
    pools = runs_of(record, {"a": [(0.4, 0.8), (0.8, 0.4)], "b": [(0.6, 0.6), (0.5, 0.5)]})
    found = method_fronts(pools, ("ctr/auc", "ctcvr/auc"), "balancing.method")
    assert found is not None
    assert found.reference == pytest.approx((0.36, 0.36)) and found.ideal == pytest.approx((0.8, 0.8))
    a, b = sorted(found.fronts, key=lambda front: front.method)
    box = 1.1**2
    assert a.hypervolume == pytest.approx((0.1 * 1.1 + 1.0 * 0.1) / box)
    assert b.hypervolume == pytest.approx(0.6 * 0.6 / box)
    assert (a.points, a.on_own, a.on_common, b.points, b.on_own, b.on_common) == (2, 2, 2, 2, 1, 1)
    # IGD⁺ of a: (0.5, 0.5) is 0.5 better than (1, 0) on one axis; of b: (0, 1) and (1, 0) are 0.5 better on one each.
    assert a.igd_plus == pytest.approx(0.5 / 3) and b.igd_plus == pytest.approx((0.5 + 0.5) / 3)
    assert found.fronts[0].method == "b" and found.on_common.tolist() == [True, True, True, False]


def test_less_is_better_on_an_axis_that_says_so(record: Any) -> None:
    pools = runs_of(record, {"a": [(0.8, 0.7)], "b": [(0.7, 0.7)]})
    worse = pools[0].runs[0].evaluations["test"]["pointwise"]["ctr"]
    worse["ne"] = 0.9
    found = method_fronts(pools, ("ctr/auc", "ctr/ne"), "balancing.method")
    assert found is not None and found.on_common.tolist() == [True, True]
    assert found.ideal == pytest.approx((0.8, 0.6)) and found.reference == pytest.approx((0.69, 0.93))


def test_operating_points_are_points_and_seeds_are_means(record: Any) -> None:
    both = {"ctr": {}, "diversity": {}}
    points = [
        {"relevance": {"ndcg@10": 0.7, "ild@10": 0.2}, "diversity": {"ndcg@10": x, "ild@10": 0.6}} for x in (0.5, 0.6)
    ]
    runs = [record(f"m-seed{n}", evaluation(**values), seed=n, objectives=both) for n, values in enumerate(points)]
    pools = pool_runs(runs, "test")
    assert default_axes(pools) == ("ndcg@10", "ild@10")
    found = method_fronts(pools, ("ndcg@10", "ild@10"), "balancing.method")
    assert found is not None
    assert [(p.pool, p.operating_point) for p in found.points] == [("m", "relevance"), ("m", "diversity=1")]
    assert np.array([p.values for p in found.points]) == pytest.approx(np.array([[0.7, 0.2], [0.55, 0.6]]))


def test_equal_points_of_two_methods_are_both_on_the_front(record: Any) -> None:
    found = method_fronts(
        runs_of(record, {"a": [(0.8, 0.7)], "b": [(0.8, 0.7)]}), ("ctr/auc", "ctcvr/auc"), "balancing.method"
    )
    assert found is not None and [front.on_common for front in found.fronts] == [1, 1]


def test_axes_that_cannot_be_are_refused(record: Any) -> None:
    pools = runs_of(record, {"a": [(0.8, 0.7)]})
    for axes, message in (
        (("ctr/auc", "x"), "no run has the metric 'x'"),
        (("ctr/auc", "ctr/auc"), "two or more different"),
    ):
        with pytest.raises(UserError, match=message):
            check_axes(axes, pools)
    assert method_fronts(pools, ("ndcg@10", "ild@10"), "balancing.method") is None
