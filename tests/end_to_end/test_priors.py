"""A run that begins as trees and a regression and compares with the history, from its tables to its server."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.quality_heads import score_start
from equipoise.common.errors import UserError
from equipoise.common.progress import ProgressBar
from equipoise.configs.schema import RunConfig
from equipoise.data.manifest import Manifest
from equipoise.evaluation.evaluate_run import evaluate_run
from equipoise.evaluation.metrics.score_table import ScoreTable
from equipoise.evaluation.split_scores import SplitScores
from equipoise.export.write import export_run
from equipoise.scoring.options import ScoreOptions
from equipoise.scoring.score_run import score_run
from equipoise.serving.recommender import Recommender
from equipoise.train.assemble import open_data, open_split
from equipoise.train.job import train
from equipoise.train.objectives.registry import build_objectives
from equipoise.train.prepare_run import prepare_data
from equipoise.train.token_caches import find_tokens
from tests.prior_run import requests_of
from tests.tiny_run import run_settings


def settings_of(folder: Path, **train_settings: Any) -> dict[str, Any]:
    settings = run_settings(folder, **train_settings)
    settings["data"] |= {
        "features": [
            {"name": "seen_before", "scale": "log1p"},
            {"name": "category", "scale": "category", "heads": False},
        ],
        "rates": [{"of": "click", "by": ["user_id", "category"], "strength": 5.0}],
        # Counts of co-purchases go on after a request, so that a server knows more than its evaluation did.
        "comparison": {"item": "category", "width": 8, "co_purchase": False},
    }
    settings["objectives"] |= {"ctr": {"prior": "trees"}, "cvr": {"prior": "linear"}}
    return settings


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A finished run of few steps, the best of which counts however slightly: what towers learned is read."""
    options = {"max_steps": 4, "eval_every": 2, "head_epochs": 2, "select": "valid/ctr/log_loss", "save_every": 2}
    options["select_surely"] = False
    settings = settings_of(tmp_path_factory.mktemp("priors"), **options)
    config = RunConfig.model_validate(settings)
    prepare_data(config)
    assert train(config) is not None
    return config


@pytest.mark.parametrize("objectives", [["ctr", "cvr", "diversity"], ["ctr"]])
def test_the_first_evaluation_is_that_of_the_prior(
    objectives: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without passes of the heads alone, what is evaluated before the first step are the priors."""
    still = {"lr": 1e-30, "head_lr": 1e-30}  # so that the start is the best there is
    settings = settings_of(tmp_path, max_steps=1, eval_every=1, head_epochs=0, select="valid/ctr/log_loss", **still)
    settings["evaluate"] = {"adapters": "best"}
    settings["objectives"] = {name: settings["objectives"].get(name) or {} for name in objectives}
    config = RunConfig.model_validate(settings)
    prepare_data(config)
    shown: list[tuple[Any, ...]] = []

    def bar(*given: Any, **named: Any) -> ProgressBar:
        shown.append(given)
        return ProgressBar(*given, **named)

    monkeypatch.setattr("equipoise.train.fit_on_valid.ProgressBar", bar)
    train(config)
    judged = ("judging on valid", Manifest.read(config.data.folder).splits["valid"].slates, "slates")
    assert (judged in shown) == ("diversity" in objectives)  # lists are fitted on it
    first = next(json.loads(line) for line in (config.output / "metrics.jsonl").read_text().splitlines())
    assert first["step"] == 0
    prior = Prior(config, "valid")
    expected = -np.mean(np.where(prior.click, np.log(prior.pctr), np.log1p(-prior.pctr)))
    assert first["valid/ctr/log_loss"] == pytest.approx(expected, abs=1e-6)
    # What `benchmarks.quality` makes of such a run without its backbone is what the whole model says.
    scores = SplitScores(config, config.output)
    made, whole = score_start(scores, "test"), scores.score("test")
    best = json.loads((config.output / "best" / "best.json").read_text())
    assert best["step"] == 0 and len(best["start"]["left_out"]) > 1 and whole is not None
    assert "start" not in json.loads((config.output / "summary.json").read_text())["best"]
    for name in ("pctr", *(["pcvr"] if "cvr" in objectives else []), "click", "item"):
        np.testing.assert_allclose(getattr(made, name), getattr(whole, name), atol=1e-6)
    assert list(made.request) == list(whole.request) and made.delta.keys() == whole.delta.keys()


class Prior:
    """Clicks of a split, and what the priors of a run's folder say of them."""

    def __init__(self, config: RunConfig, split: str) -> None:
        tokens = find_tokens(config)
        data = open_data(config, "train", build_objectives(config.objectives), tokens, config.output)
        slates = open_split(data, split).slates
        assert slates.prior is not None
        self.click = np.asarray(slates.tokens.click, bool)
        self.pctr = 1 / (1 + np.exp(-np.asarray(slates.prior[:, 0], np.float64)))


def test_evaluation_has_the_prior_beside_it(trained: RunConfig) -> None:
    report = evaluate_run(trained.output)
    assert report is not None
    assert list(report["comparisons"]["ctr"])[:3] == ["prior", "trees", "linear"]
    rows = report["baselines"]
    # The prior of clicks is those very trees, and that of conversions that very regression of the whole chain.
    assert rows["ctr"]["prior"] == pytest.approx(rows["ctr"]["trees"], rel=1e-6)
    kept = trained.output / "baselines"
    assert (kept / "trees.ctr.txt").read_text() == (trained.output / "priors" / "ctr.txt").read_text()
    assert (kept / "linear.ctcvr.txt").read_text() == (trained.output / "priors" / "cvr.txt").read_text()
    assert rows["ctr"]["trees"]["auc"] != rows["ctr"]["linear"]["auc"]


def test_export_score_and_server_agree_with_evaluation(trained: RunConfig, tmp_path: Path) -> None:
    evaluate_run(trained.output)
    table = ScoreTable.load(trained.output / "scores_test.parquet")
    export_run(trained.output, tmp_path / "export")
    score_run(trained.output, trained.data.folder / "slates", tmp_path / "scores", ScoreOptions())
    scored = pa.concat_tables(pq.read_table(file) for file in sorted((tmp_path / "scores").rglob("*.parquet")))
    rows = pq.read_table(trained.data.folder / "slates" / "test-00000.parquet").to_pylist()
    scored = scored.to_pandas().set_index("request_id")
    by_score = np.concatenate([scored.loc[row["request_id"], "pctr"].to_numpy() for row in rows])
    np.testing.assert_allclose(by_score, table.pctr, atol=1e-5)
    server = Recommender.load(tmp_path / "export")
    served = []
    for request in requests_of(trained.data.folder, rows):
        ranking = server.score(request["prefix"], request["candidates"], recent=request["recent"])
        served += [np.exp(each.log_probabilities["ctr"]) for each in ranking.given]
    np.testing.assert_allclose(served, table.pctr, atol=1e-5)


def test_a_run_does_not_go_on_beside_other_priors(trained: RunConfig, tmp_path: Path) -> None:
    folder, held = tmp_path / "run", trained.output
    shutil.copytree(held, folder)
    before = (folder / "priors" / "priors.json").read_bytes()
    changed = trained.model_copy(deep=True, update={"output": folder})
    prior = changed.objectives.ctr.prior  # type: ignore[union-attr]
    assert prior is not None and prior.folds != 3
    prior.method = "linear"
    with pytest.raises(UserError, match=r"cannot go on with other settings .*objectives\.ctr\.prior\.method"):
        train(changed, resume=True)
    assert (folder / "priors" / "priors.json").read_bytes() == before
