"""Choosing the best validation, ending early, averaging weights, and which adapters later commands read."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from equipoise.common.calibration import Calibration
from equipoise.common.errors import UserError
from equipoise.configs.load import build_config, read_run_config
from equipoise.evaluation.evaluate_run import evaluate_run
from equipoise.evaluation.metrics.score_table import ScoreTable
from equipoise.export.write import export_run
from equipoise.modeling.adapter_store import adapters_hash
from equipoise.scoring.options import ScoreOptions
from equipoise.scoring.score_run import score_run
from equipoise.serving.recommender import Recommender
from equipoise.train.best_adapters import read_best, run_adapters
from equipoise.train.calibration import FILE_NAME
from equipoise.train.job import train
from equipoise.train.prepare_run import prepare_data
from tests.tiny_run import run_settings


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run of ctr and cvr, its data prepared."""
    settings = run_settings(tmp_path_factory.mktemp("choosing"), eval_every=2, save_every=2, max_steps=20)
    settings |= {"objectives": {"ctr": {}, "cvr": {}}, "evaluate": {"bought_before": "seen_before"}}
    settings["data"]["features"] = [{"name": "seen_before", "scale": "log1p"}]
    prepare_data(build_config(settings, (), Path("config.yaml")))
    return settings


def trained(settings: dict[str, Any], output: Path, *overrides: str, **options: bool) -> dict[str, Any]:
    config = build_config(settings, (f"output={output}", *overrides), Path("config.yaml"))
    summary = train(config, **options)
    assert summary is not None
    return summary


def test_training_ends_where_nothing_gets_better_and_resumes_so(settings: dict[str, Any], tmp_path: Path) -> None:
    """A learning rate that ruins the model: the start stays the best, and two validations later training ends."""
    overrides = ("train.select=valid/ctr/log_loss", "train.patience=2", "train.lr=0.5", "train.head_lr=5.0")
    run = tmp_path / "run"
    summary = trained(settings, run, *overrides)
    assert summary["best"]["step"] == 0 and summary["steps"] == 4
    assert "2 validations in a row were not better than that of step 0" in summary["ended"]
    validated = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in validated if "valid/ctr/uauc" in record] == [0, 2, 4]
    again = trained(settings, run, *overrides, resume=True)
    assert again["steps"] == 4 and again["ended"] == summary["ended"]


def test_later_commands_read_the_best(settings: dict[str, Any], tmp_path: Path, caplog: Any) -> None:
    caplog.set_level("INFO", "equipoise")
    run = tmp_path / "run"
    trained(settings, run, "train.max_steps=4", "train.average=2", 'train.select={"valid/ctr/log_loss": 1.0}')
    assert not (run / "average").exists()
    best = read_best(run)
    assert best is not None and best["measure"] == "valid/ctr/log_loss"
    report = evaluate_run(run)
    assert report is not None and 0 < report["pointwise"]["ctr"]["uauc"] < 1
    assert "uauc" in report["baselines"]["ctr"]["item rate"] and "uauc" not in report["pointwise"]["cvr"]
    assert f"{run / 'best'}, of step {best['step']}" in caplog.text
    assert run_adapters(run, read_run_config(run)) == run / "best"
    assert run_adapters(run, read_run_config(run, ["evaluate.adapters=last"])) == run / "adapters"
    rivals = ["trees", "linear", "popularity", "bought before"]
    assert [list(report["comparisons"][target]) for target in ("ctr", "ctcvr")] == [rivals, rivals]
    assert {"trees", "linear"} <= set(report["baselines"]["ctr"])
    fitted = {path: path.stat().st_mtime_ns for path in (run / "baselines").iterdir()}
    assert {path.name for path in fitted} >= {"trees.ctr.txt", "linear.ctcvr.txt", "baselines.json"}
    assert evaluate_run(run) == report
    assert {path: path.stat().st_mtime_ns for path in (run / "baselines").iterdir()} == fitted
    if adapters_hash(run / "best") != adapters_hash(run / "adapters"):
        assert evaluate_run(run, overrides=["evaluate.adapters=last"]) != report
    saved = yaml.safe_load((run / "config.yaml").read_text())
    del saved["evaluate"]["adapters"]  # as a run of before there was a choice
    (run / "config.yaml").write_text(yaml.safe_dump(saved))
    assert run_adapters(run, read_run_config(run)) == run / "adapters"


def test_calibration_reaches_every_reader(settings: dict[str, Any], tmp_path: Path, caplog: Any) -> None:
    """Evaluation, scores, export and server correct the same logits, and go without where adapters are others."""
    caplog.set_level("INFO", "equipoise")
    run, export = tmp_path / "run", tmp_path / "export"
    trained(settings, run, "train.max_steps=2", "train.calibration=isotonic")
    assert "calibration of ctr (isotonic) o" in caplog.text
    adapters = run_adapters(run, read_run_config(run))
    fitted = json.loads((run / FILE_NAME).read_text())
    assert fitted["adapters"] == adapters_hash(adapters) and set(fitted["objectives"]) == {"ctr", "cvr"}

    (run / FILE_NAME).unlink()
    evaluate_run(run)
    plain = ScoreTable.load(run / "scores_test.parquet")
    line = Calibration("platt", slope=0.5, intercept=0.3)
    about = {"ctr": {"kept": True, "calibration": line.to_json()}, "cvr": {"kept": False}}
    (run / FILE_NAME).write_text(json.dumps({"adapters": fitted["adapters"], "objectives": about}))
    evaluate_run(run)
    table = ScoreTable.load(run / "scores_test.parquet")
    logit = np.log(plain.pctr) - np.log1p(-plain.pctr)
    assert table.pctr == pytest.approx(1 / (1 + np.exp(-0.5 * logit - 0.3)), abs=1e-9)
    assert np.array_equal(table.pcvr, plain.pcvr)

    slates = next((Path(settings["data"]["folder"]) / "slates").glob("test*.parquet"))
    score_run(run, slates, tmp_path / "scores", ScoreOptions())
    scores = pq.read_table(next((tmp_path / "scores").glob("*.parquet"))).to_pandas()
    assert np.sort(scores.pctr) == pytest.approx(np.sort(table.pctr), abs=1e-5)
    export_run(run, export, golden=4)
    record = json.loads((export / "serving.json").read_text())["objectives"]
    assert record["ctr"]["calibration"] == line.to_json() and "calibration" not in record["cvr"]
    assert "## Calibration" in (export / "README.md").read_text()
    for row in (export / "golden.jsonl").read_text().splitlines():
        prompt = json.loads(row)
        logit = prompt["logit"]["ctr"] + record["ctr"]["logit_offset"]
        assert prompt["calibrated"]["ctr"] == pytest.approx(1 / (1 + np.exp(-0.5 * logit - 0.3)))
    recommender = Recommender.load(export)
    (corrected,) = recommender.score_prepared([recommender.prepare(recommender.examples[0])])
    recommender._scorer.calibrations = {}
    (raw,) = recommender.score_prepared([recommender.prepare(recommender.examples[0])])
    for one, other in zip(corrected.given, raw.given, strict=True):
        logit = np.log(other.probabilities["ctr"]) - np.log1p(-other.probabilities["ctr"])
        assert one.probabilities["ctr"] == pytest.approx(1 / (1 + np.exp(-0.5 * logit - 0.3)), abs=1e-6)
        assert one.probabilities["cvr"] == other.probabilities["cvr"] and one.deltas == other.deltas


@pytest.mark.parametrize(
    "override, words",
    [
        ("train.select=ctr/auc", "name a measure of validations"),
        ("train.select=valid/ctcvr2/auc", "targets are ctr, cvr, ctcvr"),
        ("train.select={valid/ctr/auc: -1}", "above 0"),
        ("train.select={}", "names no measure"),
        ("train.average=1", "2 or more"),
        ("train.eval_every=null", "set eval_every"),
    ],
)
def test_what_cannot_be_chosen_by_is_refused(settings: dict[str, Any], override: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        build_config(settings, ("train.patience=3", override), Path("config.yaml"))
