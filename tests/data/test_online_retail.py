"""Online Retail as requests, on made-up invoice lines of its form: labels, candidates, and nothing from the future."""

from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest
import yaml

from equipoise.common.errors import UserError
from equipoise.configs.load import build_config, load_config
from equipoise.data.prepare.slates import prepare
from equipoise.data.sources import online_retail

ROOT = Path(__file__).resolve().parents[2]
DAYS = 374


def made_up_lines(customers: int = 12, products: int = 50, seed: int = 0) -> pd.DataFrame:
    """Orders of a few lines each over a year, and lines that are no sale of a product to a known customer."""
    rng = np.random.default_rng(seed)
    rows = []
    for order in range(240):
        stamp = pd.Timestamp("2010-12-01 09:00") + pd.Timedelta(days=int(order * DAYS / 240), minutes=order % 400)
        for product in rng.choice(products, size=int(rng.integers(2, 14)), replace=False):
            rows.append((f"  GIFT  number {product} ", 2, stamp, 1.0 + product % 7, float(order % customers), "France"))
    stamp = pd.Timestamp("2011-05-01")
    rows += [
        ("POSTAGE", 1, stamp, 18.0, 1.0, "France"),
        ("GIFT number 1", -2, stamp, 1.0, 1.0, "France"),
        ("GIFT number 1", 2, stamp, 0.0, 1.0, "France"),
        ("GIFT number 1", 2, stamp, 1.0, np.nan, "France"),
        (None, 2, stamp, 1.0, 1.0, "France"),
    ]
    return pd.DataFrame(rows, columns=list(online_retail.COLUMNS)).sample(frac=1, random_state=seed)


@pytest.fixture(scope="module")
def tables() -> dict[str, pd.DataFrame]:
    return online_retail.tables_of(made_up_lines())


def test_labels_are_the_orders_and_columns_know_no_future(tables: dict[str, pd.DataFrame]) -> None:
    impressions, events = tables["impressions"], tables["events"]
    assert set(tables["items"].title) == {f"gift number {n}" for n in range(50)}
    assert set(impressions.split) == {"train", "valid", "test"} and len(events) == len(events.drop_duplicates())
    shown = impressions.groupby("request_id")
    assert shown.click.sum().between(1, online_retail.POSITIVES).all()
    assert (shown.click.size() - shown.click.sum()).max() <= online_retail.NEGATIVES
    assert not impressions.duplicated(["request_id", "item_id"]).any()
    for row in impressions.sample(300, random_state=1).itertuples():
        own = events[(events.user_id == row.user_id) & (events.item_id == row.item_id)]
        assert row.click == int((own.timestamp == row.timestamp).any())
        earlier = own[own.timestamp < row.timestamp]
        assert row.times_bought == len(earlier)
        since = (row.timestamp - earlier.timestamp.max()).total_seconds() / 86400 if len(earlier) else np.nan
        assert row.days_since_bought == pytest.approx(since, nan_ok=True)
        sold = events[(events.item_id == row.item_id) & (events.timestamp < row.timestamp)]
        assert len(sold)  # nothing is shown that is sold for the first time
        decayed = 0.5 ** ((row.timestamp - sold.timestamp).dt.total_seconds() / 86400 / online_retail.HALF_LIFE)
        assert row.popularity == pytest.approx(decayed.sum())
        before = events[(events.user_id == row.user_id) & (events.timestamp < row.timestamp)]
        assert row.orders == before.timestamp.nunique()


def test_equal_lines_give_equal_tables_in_every_form(tmp_path: Path, tables: dict[str, pd.DataFrame]) -> None:
    lines = made_up_lines()
    lines.to_parquet(tmp_path / "lines.parquet")
    later_names = {"CustomerID": "Customer ID", "UnitPrice": "Price"}
    lines.rename(columns=later_names).to_csv(tmp_path / "lines.csv", index=False, encoding="latin-1")
    for name in ("lines.parquet", "lines.csv"):
        again = online_retail.tables_of(online_retail.read_lines(tmp_path / name))
        for table, frame in tables.items():
            pd.testing.assert_frame_equal(again[table], frame, check_dtype=False)
    with duckdb.connect() as con:
        found = online_retail.load(con, tmp_path / "lines.parquet")
        assert found.source == "online_retail" and found.split_column == "split"
        assert con.execute("SELECT count(*) FROM raw_impressions").fetchone() == (len(tables["impressions"]),)


def test_files_that_are_not_it_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"as \.xlsx, \.csv or \.parquet"):
        online_retail.read_lines(tmp_path / "lines.txt")
    with pytest.raises(UserError, match="does not exist"):
        online_retail.read_lines(tmp_path / "lines.csv")
    (tmp_path / "lines.csv").write_text("Description,Quantity\nx,1\n")
    with pytest.raises(UserError, match="no column 'InvoiceDate'"):
        online_retail.read_lines(tmp_path / "lines.csv")
    (tmp_path / "lines.parquet").write_text("nothing")
    with pytest.raises(UserError, match="cannot be read"):
        online_retail.read_lines(tmp_path / "lines.parquet")
    with pytest.raises(UserError, match="no sale"):
        online_retail.tables_of(made_up_lines().assign(CustomerID=np.nan))


def test_the_packaged_config_prepares_them(tmp_path: Path) -> None:
    made_up_lines().to_csv(tmp_path / "lines.csv", index=False)
    settings = yaml.safe_load((ROOT / "configs" / "online_retail.yaml").read_text())
    del settings["data"]["comparison"], settings["objectives"]["ctr"]["prior"]
    overrides = (f"data.folder={tmp_path / 'prepared'}", f"data.file={tmp_path / 'lines.csv'}")
    config = build_config(settings, overrides, Path("online_retail.yaml"))
    manifest = prepare(config.data, read=("click",))
    assert manifest.source == "online_retail" and manifest.splits["test"].requests > 10
    with pytest.raises(UserError, match="belong together"):
        load_config(ROOT / "configs" / "online_retail.yaml", ["data.file=null"])
