"""Δm against hand-computed values."""

from typing import Any

import pytest

from equipoise.evaluation.compare.relative_change import delta_m
from equipoise.evaluation.compare.seeds import pool_runs
from tests.evaluation.compare.conftest import evaluation

METRICS = {"ctr": "ctr/auc", "cvr": "ctcvr/auc"}
NE = {"ctr": "ctr/ne", "cvr": "ctcvr/auc"}


def test_it_is_the_mean_relative_change(record: Any) -> None:
    pools = pool_runs(
        [
            record("only-ctr", evaluation(0.8, None), objectives={"ctr": {}}),
            record("only-cvr", evaluation(0.5, 0.7)),
            record("both", evaluation(0.84, 0.63), objectives={"ctr": {}, "cvr": {}, "diversity": {}}),
        ],
        "test",
    )
    found = delta_m(pools, METRICS)
    # both: (0.84 − 0.8) / 0.8 = +5 %, (0.63 − 0.7) / 0.7 = −10 %; only-cvr: −37.5 %, 0 %
    assert found.percent == pytest.approx({"both": -2.5, "only-cvr": -18.75})
    assert found.references["both"] == {"ctr": "only-ctr", "cvr": "only-cvr"}
    assert any("only-ctr (ctr), only-cvr (cvr)" in note for note in found.notes)


def test_less_is_better_where_it_is(record: Any) -> None:
    single = evaluation(0.8, None)
    better = evaluation(0.8, 0.7)
    better["pointwise"]["ctr"]["ne"] = 0.54
    pools = pool_runs([record("a", single, objectives={"ctr": {}}), record("b", better)], "test")
    found = delta_m(pools, {"ctr": "ctr/ne"})
    assert found.percent == pytest.approx({"a": 0.0, "b": 10.0})


def test_the_nearest_single_objective_run_is_the_reference(record: Any) -> None:
    pools = pool_runs(
        [
            record("ctr-small", evaluation(0.9, None), objectives={"ctr": {}}, lora={"rank": 4}),
            record("ctr-large", evaluation(0.8, None), objectives={"ctr": {}}, lora={"rank": 16}),
            record("both", evaluation(0.8, 0.7), lora={"rank": 16}),
        ],
        "test",
    )
    assert delta_m(pools, {"ctr": "ctr/auc"}).references["both"] == {"ctr": "ctr-large"}


def test_without_a_reference_it_is_left_out_and_told(record: Any) -> None:
    pools = pool_runs([record("a", evaluation()), record("b", evaluation(), balancing={"method": "nash"})], "test")
    found = delta_m(pools[:0] or pools, {"ctr": "ctr/auc"})
    assert found.percent == {} and "no run of a single objective" in found.notes[0]
    assert delta_m(pools, METRICS).percent == {}  # runs of both objectives are not cvr's single ones
    more = record("more", evaluation(), objectives={"ctr": {}, "cvr": {}, "fairness": {}})
    partly = delta_m([*pools, *pool_runs([more], "test")], METRICS)  # beside one that has more, they are
    assert partly.percent == pytest.approx({"a": 0.0, "b": 0.0, "more": 0.0}) and "leaves out ctr" in partly.notes[-1]
