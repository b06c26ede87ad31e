"""Changes against a baseline, their resamples against resampled tables, and what has no interval."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.compare_runs import OMEGAS, made, write_run
from equipoise.common.errors import UserError
from equipoise.evaluation.compare.against_baseline import Change, changes_against, find_baseline
from equipoise.evaluation.compare.resampled import Resampler
from equipoise.evaluation.compare.run_records import read_run
from equipoise.evaluation.compare.seeds import pool_runs
from equipoise.evaluation.metrics.bootstrap import interval, request_draws
from equipoise.evaluation.metrics.metric_names import metrics_of, operating_points
from equipoise.evaluation.metrics.score_table import ScoreTable
from equipoise.evaluation.report import evaluate_table, json_ready

METRICS = (
    "ctr/auc", "ctr/gauc", "ctr/log_loss", "ctr/ne", "ctcvr/auc", "ctcvr/ne", "cvr/gauc", "cvr/log_loss",
    "relevance/ndcg@10", "diversity=1/ild@5", "fairness=1/exposure_ratio@10",
)  # fmt: skip


def repeated(table: ScoreTable, times: np.ndarray, exponents: dict[str, float] | None = None) -> ScoreTable:
    """The table with every request as often as `times` says, each copy as a request of its own."""
    numbers = np.unique(table.request)
    copies = [np.flatnonzero(table.request == r) for r, count in zip(numbers, times, strict=True) for _ in range(count)]
    rows = np.concatenate(copies)
    names = np.repeat(np.arange(len(copies)), [len(copy) for copy in copies])
    held = {name: getattr(table, name)[rows] for name in ("item", "user", "click", "conversion", "pctr", "pcvr")}
    delta = {name: values[rows] for name, values in table.delta.items()}
    return ScoreTable(names, **held, delta=delta, items=table.items, exponents=exponents)


def evaluated(table: ScoreTable) -> dict[str, Any]:
    attributes = ("department", "category")
    return evaluate_table(table, None, (5, 10), OMEGAS, (), attributes, "category", "provider", 0)


@pytest.mark.parametrize("exponents", [None, {"ctr": 1.0, "cvr": 0.3}])
def test_resamples_are_the_metrics_of_resampled_requests(runs: Path, models: Any, exponents: Any) -> None:
    run, table = read_run(runs / "pcgrad-seed1"), models[0].table
    if exponents is not None:
        whole = json_ready(evaluated(dataclasses.replace(table, exponents=exponents)))
        config = {**run.config, "relevance": "log(ctr) + 0.3*log(cvr)"}
        run = dataclasses.replace(run, config=config, evaluations={"test": whole})
    omegas = {point.name: point.omega for point in operating_points(run.evaluations["test"])}
    samples = Resampler("test", 3, seed=0)(run, {name: omegas.get(name.rpartition("/")[0], {}) for name in METRICS})
    assert set(samples.values) == set(METRICS)
    for number, times in enumerate(request_draws(40, 3, 0)):
        truth = metrics_of(evaluated(repeated(table, times, exponents)))
        for name in METRICS:
            assert samples.values[name][number] == pytest.approx(truth[name]), name


def test_changes_average_over_seeds_and_are_paired(runs: Path) -> None:
    pools = pool_runs([read_run(runs / f"{m}-seed{s}") for m in ("pcgrad", "mgda") for s in (1, 2)], "test")
    found = changes_against(pools[0], pools, ["ctr/auc", "ctr/ece"], resamples=50)
    change = found.values["mgda"]["ctr/auc"]
    base, mine = (pool.metrics["ctr/auc"].mean for pool in pools)
    assert change.difference == pytest.approx(mine - base) and change.percent == pytest.approx(
        100 * (mine - base) / base
    )
    resampler = Resampler("test", 50)
    values = [[resampler(run, {"ctr/auc": {}}).values["ctr/auc"] for run in pool.runs] for pool in pools]
    assert change.interval == pytest.approx(interval(np.mean(values[1], axis=0) - np.mean(values[0], axis=0)))
    assert found.values["mgda"]["ctr/ece"].interval is None  # no resampled ECE
    assert set(found.values) == {"mgda"} and found.notes == ()


def test_other_requests_give_no_interval_and_say_so(runs: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", {"balancing.method": "nash"}, made(0, requests=30, candidates=10))
    pools = pool_runs([read_run(runs / "mgda-seed1"), read_run(other)], "test")
    found = changes_against(pools[0], pools, ["ctr/auc"], resamples=10)
    assert found.values["other"]["ctr/auc"].interval is None
    assert "other requests than mgda-seed1" in found.notes[0]


def test_scores_that_are_not_those_of_the_evaluation_give_none_and_say_so(runs: Path, tmp_path: Path) -> None:
    stale = shutil.copytree(runs / "pcgrad-seed1", tmp_path / "stale")
    shutil.copy(runs / "pcgrad-seed2" / "scores_test.parquet", stale)
    lost = shutil.copytree(runs / "mgda-seed2", tmp_path / "lost")
    (lost / "scores_test.parquet").unlink()
    for folder, reason in ((stale, "but the evaluation"), (lost, "is missing: run `equipoise evaluate")):
        base, run = read_run(runs / "mgda-seed1"), read_run(folder)
        run = dataclasses.replace(run, config={**run.config, "lora": {"rank": 2}})
        pools = pool_runs([base, run], "test")
        found = changes_against(pools[0], pools, ["ctr/auc"], resamples=5)
        assert found.values[pools[1].name]["ctr/auc"].interval is None and reason in found.notes[0]


def test_without_resamples_there_are_differences_alone(runs: Path) -> None:
    pools = pool_runs([read_run(runs / "pcgrad-seed1"), read_run(runs / "mgda-seed1")], "test")
    change = changes_against(pools[0], pools, ["ctr/auc"], resamples=0).values["mgda-seed1"]["ctr/auc"]
    assert change.interval is None and change.difference != 0


@pytest.mark.parametrize(("low", "high", "metric", "verdict"), [
    (0.1, 0.2, "ctr/auc", 1), (-0.2, -0.1, "ctr/auc", -1), (-0.1, 0.1, "ctr/auc", 0), (0.1, 0.2, "ctr/ne", -1),
])  # fmt: skip
def test_verdict(low: float, high: float, metric: str, verdict: int) -> None:
    assert Change(0.0, None, (low, high)).verdict(metric) == verdict


def test_a_baseline_is_found_by_pool_run_or_folder(runs: Path) -> None:
    names = ("pcgrad-seed1", "pcgrad-seed2", "mgda-seed1", "unmeasured")
    pools = pool_runs([read_run(runs / name) for name in names], "test")
    for name in ("pcgrad", "pcgrad-seed2", str(runs / "pcgrad-seed1")):
        assert find_baseline(pools, name) is pools[0]
    with pytest.raises(UserError, match="no run is named 'x': name one of pcgrad, mgda-seed1"):
        find_baseline(pools, "x")
    with pytest.raises(UserError, match="is not evaluated: run `equipoise evaluate"):
        find_baseline(pools, "unmeasured")
