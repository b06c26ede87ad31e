"""Tables without conversions, or without clicks, through all commands from prepare to export and serving."""

import csv
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from equipoise.common.errors import UserError
from equipoise.configs.schema import RunConfig
from equipoise.data.labels import check_absent, labels_of, labels_read
from equipoise.data.manifest import Manifest
from equipoise.data.prepare.slates import prepare
from equipoise.launch.cli import app
from equipoise.serving.recommender import Recommender
from tests.tiny_run import run_settings, write_config

PLAIN: dict[str, Any] = {"ctr": {}, "diversity": {}}


def settings_without(folder: Path, label: str, objectives: dict[str, Any] = PLAIN, **values: object) -> dict[str, Any]:
    """The tiny run on impressions without one label, or with other values of it."""
    settings = run_settings(folder) | {"objectives": objectives}
    path = Path(settings["data"]["tables"]["impressions"])
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row.pop(label)
        row |= values
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return settings


def prepared(settings: dict[str, Any]) -> Manifest:
    config = RunConfig.model_validate(settings)
    return prepare(config.data, labels=labels_of(config.objectives), read=labels_read(config.objectives))


def test_conversions_are_needed_by_what_reads_them_alone(tmp_path: Path) -> None:
    settings = settings_without(tmp_path, "conversion")
    manifest = prepared(settings)
    assert manifest.absent_labels == ["conversion"] and manifest.counts["conversions"] == 0 < manifest.counts["clicks"]
    both = RunConfig.model_validate(settings | {"objectives": {"ctr": {}, "cvr": {}}}).objectives
    with pytest.raises(UserError, match="was prepared without conversion, which the objectives of this run read"):
        check_absent(both, manifest.absent_labels, "x")
    for reader in ({"cvr": {}}, {"sold": {"kind": "binary", "label": "conversion"}}):
        with pytest.raises(UserError, match="has no column 'conversion', which the objectives read"):
            prepared(settings | {"objectives": {"ctr": {}, **reader}})


@pytest.mark.parametrize("value", ["", 0])
def test_constant_or_empty_conversions_are_refused_for_what_reads_them_alone(tmp_path: Path, value: object) -> None:
    settings = settings_without(tmp_path, "conversion", conversion=value)
    assert prepared(settings).absent_labels == (["conversion"] if value == "" else [])
    with pytest.raises(UserError):
        prepared(settings | {"objectives": {"ctr": {}, "cvr": {}}})


def test_without_clicks_a_conversion_counts_as_the_click(tmp_path: Path) -> None:
    settings = settings_without(tmp_path, "click")
    manifest = prepared(settings)
    assert manifest.absent_labels == ["click"] and any("pCTR is its probability" in note for note in manifest.notes)
    assert manifest.counts["clicks"] == manifest.counts["clicked_conversions"] == manifest.counts["conversions"] > 0
    with pytest.raises(UserError, match="has no column 'click'"):
        prepared(settings | {"objectives": {"ctr": {}, "cvr": {}}})
    neither = settings_without(tmp_path / "neither", "click")
    path = Path(neither["data"]["tables"]["impressions"])
    pd.read_csv(path).drop(columns="conversion").to_csv(path, index=False)
    with pytest.raises(UserError, match="has no column 'click'"):
        prepared(neither)


@pytest.mark.slow
@pytest.mark.parametrize("label", ["conversion", "click"])
def test_every_command_goes_on_with_one_label(
    tmp_path: Path, label: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    settings = settings_without(tmp_path, label)
    settings["data"] |= {"split": {"holdout_users": 0.3}, "profile": ["age"]}
    settings["train"] |= {"eval_every": 3, "feature_dropout": 0.3}
    config, run, export = write_config(settings, tmp_path / "config.yaml"), tmp_path / "run", tmp_path / "export"
    requests = tmp_path / "prepared" / "slates" / "test-00000.parquet"
    for command in (
        ["prepare", config],
        ["train", config],
        ["evaluate", run],
        ["front", run, "--points", "8", "--cutoff", "3"],
        ["newcomers", run],
        ["score", run, requests, tmp_path / "scores"],
        ["export", run, export, "--golden", "2"],
    ):
        with pytest.raises(SystemExit) as stop:
            app([str(part) for part in command])
        assert not stop.value.code, command
    said = capsys.readouterr().out
    assert "nan" not in said.lower()
    assert ("conversion rate" in said) == (label == "click")
    report = json.loads((run / "evaluation_test.json").read_text())
    assert list(report["pointwise"]) == ["ctr"] and report["pointwise"]["ctr"]["auc"] is not None
    assert (report["conversions"] > 0) == (label == "click")
    ranking = Recommender.load(export).rank({"age": "30"}, ["i1", "i2"])
    assert len(ranking.given) == 2
