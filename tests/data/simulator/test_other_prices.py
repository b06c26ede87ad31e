"""Prices that a simulated price is held against: substitutes in the slate, another shop's, and what was paid before."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from equipoise.common.errors import UserError
from equipoise.data.simulator.demand import OtherPrices, TrueDemand, examination, rival_prices
from equipoise.data.simulator.paid import PaidPrices
from equipoise.data.simulator.settings import SimulatorSettings
from equipoise.data.simulator.write import simulate

SETTINGS = SimulatorSettings(
    shoppers=60, items=40, requests=700, candidates=8, seed=5, substitutes=0.8, competitor=0.5, price_memory=0.4
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("others") / "shop"
    simulate(folder, SETTINGS)
    return folder


def read(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(folder / f"{name}.parquet")


def joined(shop: Path) -> pd.DataFrame:
    return read(shop, "impressions").merge(read(shop, "truth/impressions"), on=["request_id", "item_id"])


def test_the_rows_do_not_depend_on_the_block(shop: Path, tmp_path: Path) -> None:
    simulate(tmp_path / "again", SETTINGS, block=11)
    for name in ("impressions", "events", "truth/impressions"):
        pd.testing.assert_frame_equal(read(shop, name), read(tmp_path / "again", name), check_exact=True)


def test_a_shop_without_other_prices_has_none_of_their_columns(tmp_path: Path) -> None:
    simulate(tmp_path / "shop", SimulatorSettings(shoppers=5, items=6, requests=4, candidates=3))
    assert not {"competitor_price", "paid_before", "others_paid"} & set(read(tmp_path / "shop", "impressions"))
    assert "rival_price" not in read(tmp_path / "shop", "truth/impressions")


def test_rivals_are_the_others_of_the_same_kind_in_the_slate(shop: Path) -> None:
    table = joined(shop)
    kind = read(shop, "items").set_index("item_id").title.str.split(" ", n=2).str[2]  # what brand and tier leave
    table["kind"] = kind[table.item_id].to_numpy()
    for _, slate in list(table.groupby("request_id"))[:60]:
        for row in slate.itertuples():
            rivals = slate[(slate.kind == row.kind) & (slate.item_id != row.item_id)].price
            np.testing.assert_allclose(row.rival_price, np.exp(np.log(rivals).mean()) if len(rivals) else np.nan)
    assert 0.3 < table.rival_price.notna().mean() < 0.9
    assert np.isnan(rival_prices(np.array([[1, 2]]), np.array([[3.0, 4.0]]))).all()


def test_what_was_paid_before_follows_from_the_events(shop: Path) -> None:
    events, table = read(shop, "events").sort_values("timestamp", kind="stable"), joined(shop)
    assert table.paid_before.notna().sum() > 100
    for row in table[table.paid_before.notna()].head(60).itertuples():
        # A purchase becomes an event some minutes after the request that it was made in.
        past = events[(events.timestamp < row.timestamp + pd.Timedelta("5min")) & (events.item_id == row.item_id)]
        own = past.user_id == row.user_id
        assert row.paid_before == past[own].price.iloc[-1]
        if (~own).any():
            assert row.others_paid == pytest.approx(past[~own].price.mean(), abs=0.006)


def test_the_truth_reads_other_prices_as_the_draws_do(shop: Path) -> None:
    table, truth = joined(shop), TrueDemand(shop)
    users, items = [truth.shopper(u) for u in table.user_id], [truth.item(i) for i in table.item_id]
    others = OtherPrices(table.rival_price, table.competitor_price, table.paid_before)
    looked = examination(table.position, 0.5)
    np.testing.assert_allclose(truth.demand(users, items, table.price, others) * looked, table.p_click_and_conversion)
    price = np.linspace(2, 20, 30)
    alone, beside = (truth.demand(3, 5, price, each) for each in (OtherPrices(), OtherPrices(rivals=4.0)))
    assert ((beside < alone) == (price > 4.0)).all() and (np.diff(beside) < 0).all()


def test_a_shop_without_price_response_sells_alike_at_all_prices(tmp_path: Path) -> None:
    simulate(tmp_path / "shop", SimulatorSettings(shoppers=20, items=12, requests=30, candidates=6, price_response=0.0))
    truth = TrueDemand(tmp_path / "shop")
    assert np.ptp(truth.demand(3, 5, np.linspace(1, 30, 9))) == 0 and truth.demand(3, 5, 1.0) > 0


def test_memory_is_of_the_past_alone() -> None:
    memory = PaidPrices(2)
    memory.add(
        np.array([0, 1]), np.array([[0, 1], [0, 1]]), np.array([[3.0, 9.0], [5.0, 9.0]]), np.array([[1, 0], [1, 0]])
    )
    memory.add(np.array([0]), np.array([[0, 1]]), np.array([[4.0, 9.0]]), np.array([[1, 0]]))
    last, others = memory.of(np.array([0, 1, 2]), np.array([[0, 1]] * 3))
    np.testing.assert_array_equal(last, [[4.0, np.nan], [5.0, np.nan], [np.nan, np.nan]])
    np.testing.assert_array_equal(others, [[5.0, np.nan], [3.5, np.nan], [4.0, np.nan]])


def test_strengths_below_zero_are_refused() -> None:
    with pytest.raises(UserError, match="--price-response is -1"):
        SimulatorSettings(price_response=-1)
    with pytest.raises(UserError, match="--price-memory is nan"):
        SimulatorSettings(price_memory=float("nan"))
