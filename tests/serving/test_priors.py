"""Priors and comparisons: evaluation, score, export, server and explanation give the same numbers."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from equipoise.common.errors import UserError
from equipoise.configs.schema import RunConfig
from equipoise.data.batches import build_batch
from equipoise.data.slate_set import SlateSet
from equipoise.export.write import export_run
from equipoise.modeling.priors import Priors
from equipoise.modeling.simple_models import log_odds as log_odds_of
from equipoise.scoring.options import ScoreOptions
from equipoise.scoring.score_run import score_run
from equipoise.serving.ranking import Scored
from equipoise.serving.recommender import Recommender
from tests import prior_run
from tests.card_code import request_of, run_python
from tests.prior_run import prior_config, slates_of_test, write_prior_run


@dataclass(frozen=True)
class Tried:
    """A run, its export, and what evaluation gives."""

    config: RunConfig
    export: Path
    slates: SlateSet
    logits: dict[str, np.ndarray]


METHODS = {"llama": "trees", "bert": "blend"}
"""Of the prior of ctr, by architecture."""


@pytest.fixture(scope="module", params=METHODS)
def tried(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Tried:
    folder = tmp_path_factory.mktemp(request.param)
    config = prior_config(folder, request.param, METHODS[request.param])
    model = write_prior_run(config)
    slates = slates_of_test(config)
    with torch.inference_mode():
        outputs = [
            model.score(build_batch([slates.slate(row)], 128, slates.pad_id).model_inputs())
            for row in range(len(slates))
        ]
    logits = {name: torch.cat([each[name] for each in outputs]).numpy() for name in model.objectives}
    export_run(config.output, folder / "export", golden=6)
    return Tried(config, folder / "export", slates, logits)


def read_scores(folder: Path) -> Any:
    return pa.concat_tables(pq.read_table(file) for file in sorted(folder.rglob("*.parquet"))).to_pandas()


def log_odds(scored: Scored, name: str) -> float:
    log_p = scored.log_probabilities[name]
    return log_p - float(np.log(-np.expm1(log_p)))


def requests_of(tried: Tried) -> list[dict[str, Any]]:
    """The test requests as JSON."""
    return list(prior_run.requests_of(tried.config.data.folder, tried.slates.rows))


def test_the_code_in_the_readme_runs_as_it_stands(tried: Tried) -> None:
    assert run_python(tried.export)[:2] == ["ctr", "diversity"]
    body = request_of(tried.export)
    recommender = Recommender.load(tried.export)
    ranking = recommender.score_prepared([recommender.prepare(body)])[0]
    assert len(ranking.candidates) == len(body["candidates"]) and body["recent"]
    features = json.loads((tried.export / "golden_slate.json").read_text())["features"]
    known = [{name: value for name, value in each.items() if value is not None} for each in features]
    assert [candidate["features"] for candidate in body["candidates"]] == known[:3]


def test_prepared_slates_are_scored_as_evaluated(tried: Tried, tmp_path: Path) -> None:
    score_run(tried.config.output, tried.config.data.folder / "slates", tmp_path / "scores", ScoreOptions())
    found = read_scores(tmp_path / "scores")
    rows = tried.slates.rows
    found = found[found.request_id.isin(set(rows["request_id"]))]
    by_request = dict(list(found.groupby("request_id", sort=False)))
    for name in ("ctr", "cvr"):
        scored = np.concatenate([by_request[row["request_id"]][f"p{name}"].to_numpy() for row in rows])
        assert np.abs(scored - 1 / (1 + np.exp(-tried.logits[name]))).max() < 1e-5


def test_requests_get_the_numbers_of_evaluation(tried: Tried, tmp_path: Path) -> None:
    """cvr's prior reads no co-purchase, whose counts go on after a request of the test split."""
    recommender = Recommender.load(tried.export)
    rankings = [recommender.score(r["prefix"], r["candidates"], recent=r["recent"]) for r in requests_of(tried)]
    found = np.array([log_odds(scored, "cvr") for ranking in rankings for scored in ranking.given])
    assert np.abs(found - tried.logits["cvr"]).max() < 1e-4
    assert np.ptp(tried.logits["cvr"]) > 0.5

    ids = [f"r{number}" for number in range(len(rankings))]
    raw = [r["candidates"] for r in requests_of(tried)]
    columns = {
        "request_id": ids,
        "recent": [r["recent"] for r in requests_of(tried)],
        "item_id": [[c["item_id"] for c in each] for each in raw],
        "seen_before": [[c["features"].get("seen_before") for c in each] for each in raw],
    }
    pq.write_table(pa.table(columns), tmp_path / "raw.parquet")
    score_run(tried.config.output, tmp_path / "raw.parquet", tmp_path / "scores", ScoreOptions())
    frame = read_scores(tmp_path / "scores")
    again = recommender.rank_frame(pq.read_table(tmp_path / "raw.parquet").to_pandas())
    again = again.sort_values(["request_id", "position"])
    frame["position"] = frame.groupby("request_id").cumcount()
    frame = frame.sort_values(["request_id", "position"])
    for name in ("pctr", "pcvr"):
        assert np.abs(again[name].to_numpy() - frame[name].to_numpy()).max() < 1e-5


def test_what_was_taken_may_be_named_by_item_and_is_by_default_the_history(tried: Tried) -> None:
    recommender = Recommender.load(tried.export)
    slate = ["i0", "i1", "i2", "i3"]
    by_id = recommender.score({}, slate, recent=[{"item_id": "i4"}, {"item_id": "i5"}])
    by_text = recommender.score({}, slate, recent=[" tea", "cheese", "tea", ""])
    assert [s.utility for s in by_id.given] == pytest.approx([s.utility for s in by_text.given], abs=1e-6)
    history = recommender.score({}, slate, history=["cheese"])
    both = recommender.score({}, slate, history=["cheese"], recent=["cheese"])
    other = recommender.score({}, slate, history=["cheese"], recent=["soap"])
    assert [s.utility for s in history.given] == [s.utility for s in both.given]
    assert max(abs(a.utility - b.utility) for a, b in zip(history.given, other.given, strict=True)) > 1e-3
    new = [{"item": {"title": "tea number 0", "category": "tea"}}, {"item": {"title": "x", "category": "new thing"}}]
    assert len(recommender.score({}, new, recent=["tea", "a thing that nobody took"]).given) == 2


def test_explanations_name_the_columns_of_priors(tried: Tried) -> None:
    recommender = Recommender.load(tried.export)
    request = requests_of(tried)[0]
    explained = recommender.explain(request["prefix"], request["candidates"], recent=request["recent"]).candidates[0]
    priors = {prior.objective: prior for prior in explained.priors}
    assert set(priors) == {"ctr", "cvr"}
    for prior in priors.values():
        total = prior.base + sum(term.adds for term in prior.terms)
        assert total == pytest.approx(prior.log_odds, abs=1e-5)
    assert {term.column for term in priors["cvr"].terms} >= {"similar_max", "seen_before"}
    assert json.dumps(explained.to_json())


def test_of_an_unknown_shopper_the_fallback_alone_decides(tried: Tried) -> None:
    recommender, request = Recommender.load(tried.export), requests_of(tried)[0]
    priors = Priors.read(tried.export / "priors")
    told = [{**candidate, "features": {"seen_before": 2.0}} for candidate in request["candidates"]]
    untold = [{**candidate, "features": {}} for candidate in request["candidates"]]
    found = {}
    for name, candidates in (("told", told), ("untold", untold)):
        explained = recommender.explain(request["prefix"], candidates, recent=request["recent"]).candidates
        found[name] = [each for one in explained for each in one.priors if each.objective == "cvr"]
    for prior in found["untold"]:
        (similar,) = (term for term in prior.terms if term.column == "similar_max")
        expected = log_odds_of(priors.fallbacks["cvr"], np.array([[similar.value]], np.float32))[0]
        assert prior.log_odds == pytest.approx(expected, abs=1e-5) == pytest.approx(prior.base + similar.adds, abs=1e-5)
        assert all(term.adds == 0 for term in prior.terms if term is not similar)
    assert any(term.adds for prior in found["told"] for term in prior.terms if term.column == "seen_before")
    assert "`similar_max` in `priors/cvr.fallback.txt`" in (tried.export / "README.md").read_text("utf-8")


def test_exports_say_what_they_hold_and_refuse_another_prior(tried: Tried, tmp_path: Path) -> None:
    record = json.loads((tried.export / "serving.json").read_text("utf-8"))
    method = record["priors"]["objectives"]["ctr"]["method"]
    assert method == tried.config.objectives.active()["ctr"].prior.method
    card = (tried.export / "README.md").read_text("utf-8")
    assert f"`ctr` begins as boosted trees {'and a logistic regression ' * (method == 'blend')}in" in card
    assert record["comparison"]["item"] == "category"
    assert "SEQ_CLS" not in (tried.export / "ctr" / "adapter_config.json").read_text("utf-8")
    copy = tmp_path / "copy"
    import shutil

    shutil.copytree(tried.export, copy)
    with (copy / "priors" / "ctr.txt").open("a") as file:
        file.write("\n")
    with pytest.raises(UserError, match="is not the prior of ctr"):
        Recommender.load(copy)
