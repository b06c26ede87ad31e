"""Lists that are filled place after place: evaluation, score, exports and requests make the same ones."""

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from benchmarks.random_run import write_random_run
from equipoise.common.errors import UserError
from equipoise.common.lists import attribute_text
from equipoise.configs.schema import RunConfig
from equipoise.data.prepare.slates import prepare
from equipoise.evaluation.metrics.list_metrics import utility
from equipoise.evaluation.split_scores import SplitScores
from equipoise.export.check_process import run_check
from equipoise.export.write import export_run
from equipoise.launch.campaign import CampaignOptions, choose_slates
from equipoise.scoring.options import ScoreOptions
from equipoise.scoring.score_run import score_run
from equipoise.serving.recommender import Recommender
from equipoise.serving.request_error import RequestError
from equipoise.serving.server.app import create_app
from equipoise.serving.server.options import ServerOptions
from equipoise.train.list_fit import write_lists
from tests.export_record import write_record
from tests.tiny_run import run_settings

OMEGA = {"diversity": 0.8, "fairness": 0.5}
PRICES = {"fairness": {"own": 0.0, "brand": 0.6}}


@dataclass(frozen=True)
class Made:
    """A run with lists, and its export."""

    config: RunConfig
    export: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("lists")
    settings = run_settings(folder)
    for name in OMEGA:
        settings["objectives"][name] = {"places": 4}
    config = RunConfig.model_validate(settings)
    prepare(config.data)
    write_random_run(config)
    write_lists(config.output, {"prices": PRICES, "learned": {}})
    export_run(config.output, folder / "export", golden=6)
    return Made(config, folder / "export")


def requests_of(made: Made) -> list[dict[str, Any]]:
    """The test requests as JSON, candidates by id."""
    slates = SplitScores(made.config, made.config.output).rows("test")[0]
    ids = slates.items.table.column("item_id").to_pylist()
    return [
        {
            "request_id": row["request_id"],
            "prefix": row["prefix"],
            "candidates": [
                {"item_id": ids[item], "context": context}
                for item, context in zip(row["item"], row["context"], strict=True)
            ],
        }
        for row in slates.rows
    ]


def test_all_make_the_same_lists(made: Made, tmp_path: Path) -> None:
    scores = SplitScores(made.config, made.config.output)
    table = scores.score("test")
    assert table is not None and table.lists is not None and table.lists.places == 4
    order = np.lexsort((-utility(table, OMEGA), table.request))
    score_run(
        made.config.output, made.config.data.folder / "slates", tmp_path / "scores", ScoreOptions(omega=_text(OMEGA))
    )
    files = sorted((tmp_path / "scores").rglob("*.parquet"))
    frame = pa.concat_tables(pq.read_table(file) for file in files).to_pandas()
    recommender = Recommender.load(made.export)
    moved = 0
    requests = requests_of(made)
    for number, name in enumerate(sorted({request["request_id"] for request in requests})):
        (request,) = (request for request in requests if request["request_id"] == name)
        rows = np.flatnonzero(table.request == number)
        evaluated = [int(row - rows[0]) for row in order if table.request[row] == number]
        ranking = recommender.rank(request["prefix"], request["candidates"], omega=OMEGA)
        assert [scored.position for scored in ranking.candidates] == evaluated
        own = frame[frame.request_id == name]
        assert np.argsort(own["rank"].to_numpy()).tolist() == evaluated
        np.testing.assert_allclose(own.utility, own.relevance)
        plain = recommender.rank(request["prefix"], request["candidates"], omega=dict.fromkeys(OMEGA, 0.0))
        assert not any(scored.place for scored in plain.given)
        by_utility = sorted(plain.given, key=lambda scored: -scored.utility)
        assert [scored.rank for scored in by_utility] == list(range(1, len(by_utility) + 1))
        moved += [scored.position for scored in plain.candidates] != evaluated
    assert moved > len(requests) / 2


def _text(omega: dict[str, float]) -> str:
    return ",".join(f"{name}={weight}" for name, weight in omega.items())


def test_a_longer_list_begins_as_the_shorter_one_and_says_what_its_places_cost(made: Made) -> None:
    recommender, request = Recommender.load(made.export), requests_of(made)[0]
    short, long = (
        recommender.rank(request["prefix"], request["candidates"], omega=OMEGA, top=top).candidates for top in (4, 7)
    )
    assert [scored.position for scored in long[:4]] == [scored.position for scored in short] and len(long) == 7
    assert all(set(scored.place) == {"relevance", *OMEGA, "cost"} for scored in long)
    assert all(scored.place["cost"] >= 0 for scored in long) and long[0].place["diversity"] == 0
    assert any(scored.place["cost"] > 0 for scored in long)
    explained = recommender.explain(
        request["prefix"], request["candidates"], omega=OMEGA, explain=[long[1].position]
    ).candidates[0]
    assert any(line.startswith("At its place it counts relevance +") for line in explained.sentences)
    assert explained.to_json()["place"] == dict(explained.scored.place)
    assert sum(explained.terms.values()) == pytest.approx(explained.scored.utility)


def test_what_lists_read_must_be_there(made: Made) -> None:
    recommender = Recommender.load(made.export)
    new = {"item": {"title": "a new tea", "category": "tea"}}
    with pytest.raises(RequestError, match=r"candidates\[1\]\.attributes\.provider"):
        recommender.rank({}, ["i1", new], omega=OMEGA)
    assert len(recommender.rank({}, ["i1", new], omega={"diversity": 1.0, "fairness": 0.0}).candidates) == 2
    told = {"item": {**new["item"], "provider": "brand"}}
    ranked = recommender.rank({}, ["i1", told], omega=OMEGA)
    assert len(ranked.candidates) == 2
    with pytest.raises(RequestError, match=r"candidates\[0\]\.attributes\.category"):
        recommender.rank({}, [{"text": "something"}], omega={"diversity": 1.0})
    beside = {"text": "something", "attributes": {"category": "tea", "provider": "brand"}}
    assert len(recommender.rank({}, [beside], omega=OMEGA).candidates) == 1
    frame = pd.DataFrame(
        {
            "request_id": ["r"] * 2, "item_id": ["i1", "new"], "text": [None, "a new tea"],
            "category": [None, "tea"], "provider": [None, "brand"],
        }
    )  # fmt: skip
    assert len(recommender.rank_frame(frame, omega=OMEGA)) == 2
    ids = [f"i{number}" for number in range(24)]
    assert len(recommender.rank({}, ids, omega=OMEGA, top=10**9).candidates) == 24


def test_numbers_name_the_same_group_whatever_their_type(made: Made) -> None:
    """An int column that had a missing value comes as floats."""
    assert [attribute_text(value) for value in (3, 3.0, np.float64(3), "3", None, math.nan, 2.5, True)] == [
        "3", "3", "3", "3", "unknown", "unknown", "2.5", "True",
    ]  # fmt: skip
    recommender = Recommender.load(made.export)
    ranked = [
        recommender.rank({}, ["i1", {"text": "x", "attributes": {"category": value, "provider": "own"}}], omega=OMEGA)
        for value in (2, 2.0, "2")
    ]
    assert ranked[0].attributes == ranked[1].attributes == ranked[2].attributes


def test_campaigns_and_prices_show_no_list(made: Made, tmp_path: Path) -> None:
    campaign = tmp_path / "campaign.yaml"
    users = tmp_path / "users.csv"
    users.write_text("user_id,item_id\n" + "".join(f"u{u},i{i}\n" for u in range(2) for i in range(6)))
    campaign.write_text("name: spring\ntop: 2\nomega: {diversity: 1.0}\n")
    with pytest.raises(UserError, match=r"weighs diversity .* fills the places of a list"):
        choose_slates(made.export, campaign, users, tmp_path / "out.csv", CampaignOptions())
    campaign.write_text("name: spring\ntop: 2\n")
    choose_slates(made.export, campaign, users, tmp_path / "out.csv", CampaignOptions())
    assert (tmp_path / "out.csv").is_file()


def test_the_export_checks_its_lists(made: Made, tmp_path: Path) -> None:
    record = json.loads((made.export / "serving.json").read_text("utf-8"))
    assert record["lists"]["terms"]["fairness"]["prices"] == PRICES["fairness"]
    assert record["operating_point"]["utility"] == "u = r"
    assert "filled place after place" in (made.export / "README.md").read_text("utf-8")
    assert run_check(made.export)["lists"] == 0
    copy = tmp_path / "copy"
    shutil.copytree(made.export, copy)
    golden = json.loads((copy / "golden_lists.json").read_text("utf-8"))
    golden["order"] = golden["order"][::-1]
    (copy / "golden_lists.json").write_text(json.dumps(golden))
    with pytest.raises(UserError, match=r"golden_lists\.json is not the file that was exported"):
        run_check(copy)
    del record["files"]  # so that the order alone can tell
    write_record(copy, record)
    with pytest.raises(UserError, match="FAILED"):
        run_check(copy)


def test_score_names_a_missing_column(made: Made, tmp_path: Path) -> None:
    items = pq.read_table(made.config.data.folder / "items.parquet").drop_columns(["provider"])
    pq.write_table(items, tmp_path / "items.parquet")
    with pytest.raises(Exception, match="no column provider, by which --omega makes lists"):
        score_run(
            made.config.output,
            made.config.data.folder / "slates",
            tmp_path / "scores",
            ScoreOptions(items=tmp_path / "items.parquet", omega=_text(OMEGA)),
        )


def test_a_server_keeps_its_promise(made: Made, tmp_path: Path) -> None:
    state = tmp_path / "keep.json"
    options = ServerOptions(keep="ild>=0.9", keep_state=state)
    requests = requests_of(made)
    request = requests[0]
    with TestClient(create_app(Recommender.load(made.export), options)) as client:
        for _ in range(3):
            client.post("/score", json=requests[0])  # shows no list
        for number in range(100):
            answer = client.post("/rank", json=requests[number % len(requests)])
            assert answer.status_code == 200 and answer.json()["omega"] == {"diversity": 0.0, "fairness": 0.0}
        (kept,) = client.get("/examples").json()["promises"]
        assert kept["windows"] == 1 and kept["promise"] == "ild>=0.9" and kept["omega"] > 0
        assert client.post("/rank", json=request).json()["omega"]["diversity"] == pytest.approx(kept["omega"])
        asked = client.post("/rank", json={**request, "omega": {"diversity": 0.0}}).json()
        assert asked["omega"]["diversity"] == 0.0  # what a request asks for is its own
        partly = client.post("/rank", json={**request, "omega": {"fairness": 0.1}}).json()["omega"]
        assert partly == {"diversity": pytest.approx(kept["omega"]), "fairness": 0.1}
        ranked = client.post("/rank", json=request).json()["candidates"]
        explained = client.post("/explain", json={**request, "explain": [ranked[1]["position"]]}).json()["candidates"]
        assert explained[0]["rank"] == 2 and explained[0]["place"] == pytest.approx(ranked[1]["place"], abs=1e-6)
        page = client.get("/metrics").text
        assert 'equipoise_promise_windows_total{promise="ild>=0.9"} 1.0' in page
        assert f'equipoise_promise_omega{{promise="ild>=0.9"}} {kept["omega"]}' in page
    with TestClient(create_app(Recommender.load(made.export), options)) as client:  # restarted
        assert client.get("/examples").json()["promises"] == [kept]
    with pytest.raises(UserError, match="--keep-state remembers promises"):
        create_app(Recommender.load(made.export), ServerOptions(keep_state=state))
