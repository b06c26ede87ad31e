import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from equipoise.common.errors import UserError
from equipoise.configs.schema import DataConfig
from equipoise.data.prepare.slates import prepare
from equipoise.data.simulator.demand import TrueDemand, examination
from equipoise.data.simulator.sessions import draw_requests
from equipoise.data.simulator.settings import SimulatorSettings
from equipoise.data.simulator.shop import draw_items, draw_shoppers
from equipoise.data.simulator.write import simulate

SETTINGS = SimulatorSettings(shoppers=150, items=40, requests=900, candidates=10, seed=3)
TABLES = ("impressions", "items", "users", "events")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulator") / "shop"
    simulate(folder, SETTINGS)
    return folder


def read(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(folder / f"{name}.parquet")


def test_the_same_seed_gives_the_same_rows_whatever_the_block(shop: Path, tmp_path: Path) -> None:
    simulate(tmp_path / "again", SETTINGS, block=7)
    simulate(tmp_path / "other", SimulatorSettings(**{**SETTINGS.to_json(), "seed": 4}))
    for name in (*TABLES, "truth/impressions", "truth/items", "truth/shoppers"):
        pd.testing.assert_frame_equal(read(shop, name), read(tmp_path / "again", name), check_exact=True)
        assert not read(shop, name).equals(read(tmp_path / "other", name)), name


def test_requests_do_not_depend_on_how_many_there_are_before() -> None:
    shoppers, items = draw_shoppers(SETTINGS), draw_items(SETTINGS)
    whole, late = (draw_requests(SETTINGS, shoppers, items, start, 50) for start in (0, 43))
    for name, values in vars(late).items():
        np.testing.assert_array_equal(values, getattr(whole, name)[43:], err_msg=name)


def test_labels_are_draws_from_the_probabilities(shop: Path) -> None:
    table = read(shop, "impressions").merge(read(shop, "truth/impressions"), on=["request_id", "item_id"])
    assert len(table) == SETTINGS.requests * SETTINGS.candidates
    clicked = table[table.click == 1]
    for labels, p in (
        (table.click, table.p_click),
        (clicked.conversion, clicked.p_conversion),
        (table.conversion, table.p_click_and_conversion),
    ):
        for _, rows in p.groupby(pd.qcut(p, 5)):
            deviation = np.sqrt((rows * (1 - rows)).sum())
            assert abs(labels[rows.index].sum() - rows.sum()) < 4 * deviation
    assert not ((table.click == 0) & (table.conversion == 1)).any()


def test_later_places_are_looked_at_less(shop: Path) -> None:
    table = read(shop, "impressions").merge(read(shop, "truth/impressions"), on=["request_id", "item_id"])
    truth = TrueDemand(shop)
    users, items = (
        [find(name) for name in table[key]] for key, find in (("user_id", truth.shopper), ("item_id", truth.item))
    )
    attraction = truth.click(users, items, table.price)
    np.testing.assert_allclose(table.p_click, attraction * (table.position + 1.0) ** -0.5, rtol=1e-12)
    by_place = (table.click / attraction).groupby(table.position).mean()
    np.testing.assert_allclose(by_place, examination(np.arange(10), 0.5), atol=0.12)
    np.testing.assert_allclose(
        table.p_click_and_conversion, truth.demand(users, items, table.price) * (table.position + 1.0) ** -0.5
    )


def test_demand_falls_with_the_price_and_is_the_formula_of_its_docstring(shop: Path) -> None:
    truth = TrueDemand(shop / "truth")
    price = np.linspace(1, 30, 50)
    curve = truth.demand(3, 5, price)
    assert (np.diff(curve) < 0).all()
    x = np.log(price / (truth.worth[5] * truth.budget[3]))
    taste, s = truth.taste[3, truth.category[5]], truth.sensitivity[3]
    click = 1 / (1 + np.exp(-(truth.appeal[5] + taste - 0.35 * s * x)))
    purchase = 1 / (1 + np.exp(-(0.4 * taste - 0.2 - s * x)))
    np.testing.assert_allclose(curve, click * purchase, rtol=1e-12)
    with pytest.raises(UserError, match="no item 'i999'"):
        truth.item("i999")


def test_the_tables_hold_no_truth(shop: Path) -> None:
    assert {name: sorted(read(shop, name).columns) for name in TABLES} == {
        "impressions": ["click", "conversion", "item_id", "position", "price", "request_id", "timestamp", "user_id"],
        "items": ["brand", "category", "cost", "item_id", "price", "provider", "tier", "title"],
        "users": ["age", "attitude", "income", "user_id"],
        "events": ["item_id", "kind", "price", "timestamp", "title", "user_id"],
    }


def test_prices_of_an_item_vary_and_candidates_differ(shop: Path) -> None:
    table = read(shop, "impressions")
    assert table.groupby("item_id").price.nunique().min() > 10
    own = read(shop, "items").set_index("item_id").price
    ratio = table.price / own[table.item_id].to_numpy()
    assert ratio.between(1 / 1.81, 1.81).all() and (abs(ratio - 1) < 1e-9).mean() == pytest.approx(0.4, abs=0.02)
    assert (table.groupby("request_id").item_id.nunique() == SETTINGS.candidates).all()
    assert table.timestamp.is_monotonic_increasing


def test_a_request_may_show_every_item() -> None:
    settings = SimulatorSettings(shoppers=5, items=6, requests=30, candidates=6)
    block = draw_requests(settings, draw_shoppers(settings), draw_items(settings), 0, 30)
    assert (np.sort(block.item, axis=1) == np.arange(6)).all()


def test_prepare_accepts_the_tables_and_histories_are_of_the_past(shop: Path, tmp_path: Path) -> None:
    config = DataConfig(
        folder=tmp_path / "prepared",
        tables={name: shop / f"{name}.parquet" for name in TABLES},
        prompt={"prefix": ["{attitude}"], "item": ["{title}"], "context": ["price {price|money}"]},
        features=["price", "cost"],
    )
    manifest = prepare(config)
    assert manifest.counts["impressions"] == 9000 and not manifest.dropped
    shown = read(shop, "impressions").merge(read(shop, "items")[["item_id", "cost"]], on="item_id")
    assert manifest.features["price"].most == shown.price[shown.timestamp < manifest.splits["valid"].first].max()
    slates = pd.read_parquet(tmp_path / "prepared" / "slates" / "test-00000.parquet")
    row = slates.iloc[0]
    expected = shown[shown.request_id == row.request_id].sort_values("position")
    np.testing.assert_allclose(row.feature_price, expected.price, rtol=1e-6)
    np.testing.assert_allclose(row.feature_cost, expected.cost, rtol=1e-6)


def test_memory_holds_a_block_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def watched(settings, shoppers, items, start, stop, memory):
        sizes.append(stop - start)
        return draw_requests(settings, shoppers, items, start, stop, memory)

    monkeypatch.setattr("equipoise.data.simulator.write.draw_requests", watched)
    shares: list[float] = []
    simulate(tmp_path / "shop", SETTINGS, block=250, progress=shares.append)
    assert sizes == [250, 250, 250, 150] and shares[-1] == 1.0 and len(shares) == 4


def test_refusals(shop: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="earlier simulation"):
        simulate(shop, SETTINGS)
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(UserError, match="is no simulation"):
        simulate(tmp_path, SETTINGS, overwrite=True)
    with pytest.raises(UserError, match="--candidates is 50"):
        SimulatorSettings(items=40, candidates=50)
    with pytest.raises(UserError, match="--price-spread"):
        SimulatorSettings(price_spread=0.5)
    with pytest.raises(UserError, match="no whole truth"):
        TrueDemand(tmp_path)
    assert json.loads((shop / "truth" / "settings.json").read_text())["seed"] == 3
