"""A cascade: the priors say which candidates pass the model; all else is as if those alone had been asked for."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from equipoise.common.errors import UserError
from equipoise.common.shown_tables import CANDIDATES, IMPRESSIONS
from equipoise.evaluation.first_by_prior import first_by_prior, first_sentence
from equipoise.evaluation.metrics.score_table import ScoreTable
from equipoise.export.write import export_run
from equipoise.launch.serve import check_options
from equipoise.scoring.options import RecommendOptions
from equipoise.scoring.recommend import recommend_file
from equipoise.serving.first import check_first
from equipoise.serving.recommender import Recommender
from equipoise.serving.server.app import create_app
from equipoise.serving.server.options import ServerOptions
from tests.prior_run import prior_config, requests_of, slates_of_test, write_prior_run

FIRST = 3


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """An export with priors of ctr and cvr, and requests of eight candidates."""
    folder = tmp_path_factory.mktemp("first")
    config = prior_config(folder, "bert")
    write_prior_run(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("equipoise.export.write.run_check", lambda out: {"ctr": 0.0, "cvr": 0.0, "diversity": 0.0})
        export_run(config.output, folder / "export", golden=2)
    return folder / "export", list(requests_of(config.data.folder, slates_of_test(config).rows))


@pytest.fixture(scope="module")
def recommender(made: tuple[Path, Any]) -> Recommender:
    return Recommender.load(made[0])


@pytest.fixture
def request_(made: tuple[Path, list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    yield {**made[1][1], "omega": {"diversity": 0.0}}


def by_priors(recommender: Recommender, request: dict[str, Any]) -> list[float]:
    """log p(click) + log p(conversion) by a · prior + b, candidate by candidate, from what explanations say of them."""
    read, utilities = recommender.reader.read(request), []
    for position in range(len(read.candidates)):
        terms = recommender.prior_terms(read, position)
        assert [term.objective for term in terms] == ["ctr", "cvr"]
        utilities.append(-sum(np.logaddexp(0.0, -(term.weight * term.log_odds + term.bias)) for term in terms))
    return utilities


def test_those_pass_that_the_priors_put_first(recommender: Recommender, request_: dict[str, Any]) -> None:
    whole = recommender.score_prepared([recommender.prepare(request_)])[0]
    ranking = recommender.score_prepared([recommender.prepare(request_, FIRST)])[0]
    expected = np.argsort(-np.array(by_priors(recommender, request_)), kind="stable")[:FIRST]
    assert [scored.position for scored in ranking.given] == sorted(expected.tolist())
    assert [scored.rank for scored in ranking.candidates] == [1, 2, 3]
    for scored in ranking.given:
        own = whole.given[scored.position]
        assert scored.item_id == own.item_id
        for name, probability in own.probabilities.items():
            assert scored.probabilities[name] == pytest.approx(probability, abs=1e-6)


def test_boosts_and_values_count(recommender: Recommender, request_: dict[str, Any]) -> None:
    last = int(np.argmin(by_priors(recommender, request_)))
    candidates = [
        {**candidate, "boost": 5.0 if n == last else -5.0} for n, candidate in enumerate(request_["candidates"])
    ]
    ranking = recommender.score_prepared([recommender.prepare({**request_, "candidates": candidates}, 1)])[0]
    assert [scored.position for scored in ranking.given] == [last]


def test_where_all_pass_nothing_changes(recommender: Recommender, request_: dict[str, Any]) -> None:
    count = len(request_["candidates"])
    one, other = (recommender.score_prepared([recommender.prepare(request_, n)])[0] for n in (None, count))
    assert one == other


def test_the_server_tells_what_it_left_out_and_logs_what_it_asked(
    recommender: Recommender, request_: dict[str, Any], tmp_path: Path
) -> None:
    count = len(request_["candidates"])
    options = ServerOptions(first=FIRST, explore=0.3, explore_seed=1, log=tmp_path / "log")
    with TestClient(create_app(recommender, options)) as client:
        ranked = client.post("/rank", json={**request_, "request_id": "r", "top": 2}).json()
        scored = client.post("/score", json=request_).json()
    assert ranked["served"]["left_out"] == count - FIRST and len(ranked["candidates"]) == 2
    assert len(scored["candidates"]) == count and "left_out" not in scored["served"]
    for each in ranked["candidates"]:
        assert each["item_id"] == request_["candidates"][each["position"]]["item_id"]
    rows = {
        table: [row for part in (tmp_path / "log" / table).glob("*.parquet") for row in pq.read_table(part).to_pylist()]
        for table in (IMPRESSIONS, CANDIDATES)
    }
    assert sorted(row["index"] for row in rows[CANDIDATES]) == [0, 1, 2] and len(rows[IMPRESSIONS]) == 2
    shown = sorted(rows[IMPRESSIONS], key=lambda row: row["position"])
    assert [row["item_id"] for row in shown] == [each["item_id"] for each in ranked["candidates"]]


def test_recommend_writes_those_that_passed(
    made: tuple[Path, list[dict[str, Any]]], recommender: Recommender, tmp_path: Path
) -> None:
    asked = made[1][:3]
    rows = [
        {"request_id": f"q{n}", "prefix": request["prefix"], "item_id": each["item_id"], "context": each["context"]}
        | {"seen_before": each["features"].get("seen_before")}
        for n, request in enumerate(asked)
        for each in request["candidates"]
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "users.parquet")
    recommend_file(made[0], tmp_path / "users.parquet", tmp_path / "out.parquet", RecommendOptions(first=FIRST))
    found = pq.read_table(tmp_path / "out.parquet").to_pandas()
    assert found.groupby("request_id").size().tolist() == [FIRST] * 3
    for row in found.itertuples():
        assert asked[int(row.request_id[1:])]["candidates"][row.position]["item_id"] == row.item_id


def test_what_cannot_pass_is_refused(recommender: Recommender) -> None:
    with pytest.raises(UserError, match="needs an export whose objectives begin as priors"):
        check_first(10, [])
    with pytest.raises(UserError, match="--first 0 is too small"):
        check_options(ServerOptions(first=0), cache_mb=0)
    check_first(10, recommender.prior_columns)


def test_what_a_list_loses_is_counted() -> None:
    """Two requests of 12, whose only click the model puts first, and the prior first in one and last in the other."""
    place = np.tile(np.arange(12), 2)
    prior = np.concatenate([-np.arange(12.0), np.arange(12.0)])
    click, pctr = (place == 0).astype(np.int8), 0.5 ** (place + 1.0)
    table = ScoreTable(np.repeat([0, 1], 12), place, ["u"] * 24, click, np.zeros(24, np.int8), pctr)
    (found,) = first_by_prior(table, prior, 10)
    assert (found["first"], found["share"]) == (10, pytest.approx(20 / 24))
    assert found["ndcg"] == pytest.approx(0.5) and found["difference"] == pytest.approx(-0.5)
    assert json.dumps(found) and "10 (83% of the work) -0.5000" in first_sentence([found], 10)
