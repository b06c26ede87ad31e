"""Weighed runs from their tables to their reports: reweighing closes a gap of scores, and all commands agree."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equipoise.common.errors import UserError
from equipoise.configs.load import read_run_config
from equipoise.configs.schema import RunConfig
from equipoise.data.manifest import Manifest
from equipoise.evaluation.compare.resampled import Resampler
from equipoise.evaluation.compare.run_records import read_run
from equipoise.evaluation.evaluate_run import evaluate_run
from equipoise.evaluation.metrics.pointwise import auc
from equipoise.evaluation.metrics.score_table import ScoreTable
from equipoise.launch.cli import app
from equipoise.train.job import train
from equipoise.train.prepare_run import prepare_data
from tests.tiny_run import run_settings, write_config, write_tables

OLD = ("40", "50", "60")
"""Ages whose shoppers click more, whatever they are shown."""


def settings_of(folder: Path, weights: Any, **changes: Any) -> dict[str, Any]:
    """A run that begins as a regression, on tables whose clicks hang on the age; impressions have a column of trust."""
    settings = run_settings(folder, max_steps=4, eval_every=2, head_epochs=1, calibration="platt", **changes)
    tables = write_tables(folder / "tables", requests=240)
    path = Path(tables["impressions"])
    with Path(tables["users"]).open(newline="") as users, path.open(newline="") as impressions:
        ages = {row["user_id"]: row["age"] for row in csv.DictReader(users)}
        rows = list(csv.DictReader(impressions))
    rng = np.random.default_rng(8)
    for row in rows:
        old = ages[row["user_id"]] in OLD
        row["click"] = int(rng.random() < (0.55 if old else 0.2))
        row["conversion"] = int(row["click"] and rng.random() < 0.5)
        row |= {"old": "yes" if old else "no", "trust": float(rng.integers(0, 4))}
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    settings["data"] |= {"tables": tables, "weights": weights, "profile": ["age"]}
    settings["data"]["features"] = [{"name": "old", "scale": "category"}, {"name": "seen_before", "scale": "log1p"}]
    settings["objectives"] |= {"ctr": {"prior": "linear"}, "cvr": {"prior": "linear"}}
    return settings


def scored(settings: dict[str, Any]) -> tuple[RunConfig, ScoreTable, dict[str, Any]]:
    config = RunConfig.model_validate(settings)
    prepare_data(config)
    assert train(config) is not None
    report = evaluate_run(config.output)
    assert report is not None
    return config, ScoreTable.load(config.output / "scores_test.parquet"), report


def score_gap(table: ScoreTable) -> float:
    old = np.isin(table.user_groups["age"].astype(str), OLD)
    return float(table.pctr[old].mean() - table.pctr[~old].mean())


def test_reweighing_closes_the_gap_of_scores(tmp_path: Path) -> None:
    _, plain, _ = scored(settings_of(tmp_path / "plain", None))
    config, reweighed, report = scored(settings_of(tmp_path / "reweighed", {"reweigh": "old"}))
    assert score_gap(plain) > 0.2 and abs(score_gap(reweighed)) < 0.5 * score_gap(plain)
    cells = Manifest.read(config.data.folder).weights
    assert cells is not None and len(cells.cells) == 4
    # What happened is what is measured, unless it is asked for otherwise.
    assert "weighed" not in report and reweighed.weight is None
    by_weights = evaluate_run(config.output, overrides=["evaluate.weights=true"])
    assert by_weights is not None and by_weights["weighed"]
    table = ScoreTable.load(config.output / "scores_test.parquet")
    assert table.weight is not None
    ours = by_weights["pointwise"]["ctr"]["auc"]
    assert ours == auc(table.click, table.pctr, table.weight) != report["pointwise"]["ctr"]["auc"]
    # Groups of equal weighed click rates: who is old tells nothing of the click any more.
    old = np.isin(table.user_groups["age"].astype(str), OLD)
    rates = [np.average(table.click[side], weights=table.weight[side]) for side in (old, ~old)]
    assert abs(rates[0] - rates[1]) < 0.1 < table.click[old].mean() - table.click[~old].mean()


def test_a_run_on_a_folder_of_other_weights_is_refused(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, {"column": "trust"})
    prepare_data(RunConfig.model_validate(settings))
    settings["data"]["weights"] = None
    with pytest.raises(UserError, match=r"was prepared with data\.weights \{column: trust\}, the config has null"):
        train(RunConfig.model_validate(settings))


@pytest.mark.slow
def test_every_command_goes_on_with_a_column_of_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    settings = settings_of(tmp_path, "trust", feature_dropout=0.2)
    settings["data"]["split"] = {"holdout_users": 0.2}
    config, run = write_config(settings, tmp_path / "config.yaml"), tmp_path / "run"
    for command in (
        ["prepare", config],
        ["train", config],
        ["evaluate", run],
        ["front", run, "--points", "8", "--cutoff", "5"],
        ["newcomers", run],
        ["report", run],
        ["export", run, tmp_path / "export", "--golden", "2"],
    ):
        with pytest.raises(SystemExit) as stop:
            app([str(part) for part in command])
        assert not stop.value.code, command
    said = " ".join(capsys.readouterr().out.split())
    assert "impressions of weight 0" in said and "metrics weigh impressions by data.weights" in said
    report = json.loads((run / "evaluation_test.json").read_text())
    front = json.loads((run / "front.json").read_text())
    at_start = next(point for point in front["points"] if not any(point["omega"].values()))
    valid = evaluate_run(run, split="valid")
    plain = next(point for point in valid["ranking"] if not any(point["omega"].values()))
    assert at_start["metrics"]["ndcg"] == pytest.approx(plain["ndcg@5"], abs=1e-9)
    # A comparison reproduces every metric of the evaluation from the weighed scores, or refuses.
    metrics = {f"ctr/{name}": {} for name in ("auc", "gauc", "log_loss", "ne")} | {"ctcvr/auc": {}, "cvr/ne": {}}
    metrics |= {"relevance/ndcg@5": {}}
    samples = Resampler("test", 10)(read_run(run), metrics)
    assert set(metrics) == set(samples.values)
    assert report["weighed"] and read_run_config(run).evaluates_by_weights
