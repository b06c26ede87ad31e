"""Flat names of metrics, differences of configs, pools of seeds, curves."""

from typing import Any

import pytest

from equipoise.evaluation.compare.curves import curves, most_points, thinned
from equipoise.evaluation.compare.differences import differing, identity, setting, written
from equipoise.evaluation.compare.relative_change import objective_metrics
from equipoise.evaluation.compare.seeds import pool_runs, run_names
from equipoise.evaluation.metrics.metric_names import direction, metrics_of, operating_points, point_name, words
from tests.evaluation.compare.conftest import evaluation


def test_every_number_of_an_evaluation_has_one_name(models: Any) -> None:
    found = models[0].evaluation
    names = metrics_of(found)
    assert names["ctr/auc"] == found["pointwise"]["ctr"]["auc"]
    assert names["diversity=1+fairness=1/exposure_ratio@10"] == found["ranking"][3]["exposure@10"]["min_max"]
    assert names["relevance/exposure_gap@5"] == found["ranking"][0]["exposure@5"]["gap"]
    assert names["user_gap/age/auc"] == found["user_groups"]["age"]["gap"]["auc"]
    assert [point.name for point in operating_points(found)] == [
        "relevance", "diversity=1", "fairness=1", "diversity=1+fairness=1"]  # fmt: skip


def test_what_is_undefined_has_no_value() -> None:
    found = metrics_of(evaluation(ctr=None, relevance={"ndcg@10": float("nan")}))
    assert set(found) == {"ctr/ne", "ctcvr/auc"}


@pytest.mark.parametrize(
    ("name", "way"),
    [("ctr/auc", 1), ("ctr/ne", -1), ("relevance/exposure_gap@10", -1), ("ctr/predicted", 0), ("user_gap/age/auc", -1)],
)
def test_which_way_is_better(name: str, way: int) -> None:
    assert direction(name) == way


def test_recall_is_a_metric_and_judges_its_objective(record: Any) -> None:
    ours = {"recall50": 0.2, "recall50_interval": [0.1, 0.3], "recall200": 0.5, "recall200_interval": [0.4, 0.6]}
    report = {"shoppers": 9, "items": 400, "weights": {"scale": 20.0}, "all": {"ours": ours, "BM25": {"recall50": 0.9}}}
    found = metrics_of({"recall": report | {"new": {"ours": {"recall200": 0.1}}}})
    assert found == {"recall/all@50": 0.2, "recall/all@200": 0.5, "recall/new@200": 0.1}
    assert direction("recall/all@200") == 1
    assert (words("recall/all@200"), words("recall/new@50")) == ("recall@200", "recall@50 of never bought items")
    pools = pool_runs([record("a", {"recall": report}, objectives={"recall": {}})], "test")
    assert objective_metrics(pools) == {"recall": "recall/all@200"}


def test_words_and_names_of_points() -> None:
    assert words("diversity=1/ild@10") == "ILD@10 at diversity=1"
    assert words("user_gap/age/auc") == "gap of AUC by age"
    assert words("ndcg@5") == "NDCG@5"
    assert point_name({"diversity": 0.5, "fairness": 0.0}) == "diversity=0.5"


def test_only_settings_that_differ_are_told() -> None:
    one = {
        "name": "a",
        "seed": 1,
        "objectives": {"ctr": {"weight": 1.0}},
        "balancing": {"level": "boundary", "options": {}},
    }
    other = {
        "name": "b", "seed": 2, "wandb": {"group": "g"},
        "objectives": {"ctr": {"weight": 1.0}, "cvr": {"weight": 0.5, "estimator": "esmm"}},
        "balancing": {"level": {"layers": 2}, "options": {"order": ["ctr"]}},
    }  # fmt: skip
    third = {**other, "objectives": {"ctr": {"weight": 1.0}, "cvr": {"weight": 2.0, "estimator": "esmm"}}}
    assert differing([one, other, third]) == {
        "objectives.cvr": [None, True, True],
        "objectives.cvr.weight": [None, 0.5, 2.0],
        "balancing.level": ["boundary", {"layers": 2}, {"layers": 2}],
        "balancing.options": [{}, {"order": ["ctr"]}, {"order": ["ctr"]}],
    }
    assert differing([one, {**one, "name": "c", "seed": 9}]) == {}
    assert identity(one) == identity({**one, "seed": 9, "output": "elsewhere"}) != identity(other)
    assert setting(third, "objectives.cvr.weight") == 2.0 and setting(one, "objectives.cvr.weight") is None
    assert [written(value) for value in (None, True, 0.5, {"layers": 2}, "x")] == [
        "–",
        "yes",
        "0.5",
        "{layers: 2}",
        "x",
    ]


def test_seeds_of_a_config_are_one_pool(record: Any) -> None:
    runs = [
        record("mgda-seed1", evaluation(0.80), seed=1),
        record("nash", evaluation(0.9), balancing={"method": "nash"}),
        record("mgda-seed2", evaluation(0.84), seed=2),
        record("mgda-seed3", None, seed=3),
    ]
    mgda, nash = pool_runs(runs, "test")
    assert (mgda.name, len(mgda.runs), len(mgda.evaluated), nash.name) == ("mgda", 3, 2, "nash")
    value = mgda.metrics["ctr/auc"]
    assert (value.mean, value.deviation, value.count) == pytest.approx((0.82, 0.04 / 2**0.5, 2))
    assert nash.metrics["ctr/auc"].deviation is None
    assert mgda.cost("seconds").mean == 60.0 and mgda.cost("peak_memory_bytes") is None


def test_equal_names_are_told_apart_by_their_folders(record: Any) -> None:
    runs = [record("demo", None), record("demo", None, balancing={"method": "nash"}), record("other", None)]
    assert run_names(runs)[2] == "other"
    assert len(set(run_names([*runs[:1], record("x", None)]))) == 2


def test_an_objective_is_judged_by_its_adjustment_alone(models: Any, record: Any) -> None:
    both = {"ctr": {}, "cvr": {}, "diversity": {}, "fairness": {}, "coverage": {}}
    pools = pool_runs([record("a", models[0].evaluation, objectives=both)], "test")
    assert objective_metrics(pools) == {
        "ctr": "ctr/auc",
        "cvr": "ctcvr/auc",
        "diversity": "diversity=1/ild@10",
        "fairness": "fairness=1/exposure_ratio@10",
    }


def test_curves_are_the_histories_thinned() -> None:
    history = [
        {"step": n, "train/loss/ctr": float(n), "balance/cosine/ctr-cvr": None, "perf/x": 1.0} for n in range(1, 8)
    ]
    found = curves([*history, {"step": 7, "valid/ctr/auc": 0.9, "valid/ctr/ece": 0.1}], most=3)
    assert found["losses"] == {"ctr": ([3, 6, 7], [2.0, 5.0, 7.0])}  # means of steps 1–3, 4–6 and 7
    assert found["cosines"] == {} and found["validation"] == {"ctr/auc": ([7], [0.9])}
    assert thinned([], [], 5) == ([], [])
    assert most_points(1) == 200 and most_points(200) == 40
