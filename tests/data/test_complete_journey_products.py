"""The Complete Journey's products: known counts, labels by brute force, and nothing that knows its future."""

from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import pytest

from equipoise.data.prepare.tables import one
from equipoise.data.sources import complete_journey, complete_journey_products

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def real() -> Any:
    pytest.importorskip(complete_journey.PACKAGE)
    con = duckdb.connect()
    complete_journey_products.load(con)
    yield con
    con.close()


def test_counts(real: duckdb.DuckDBPyConnection) -> None:
    assert one(real, "SELECT count(*), count(DISTINCT item_id) FROM raw_items") == (10_699, 10_699)
    found = real.execute("SELECT split, count(DISTINCT request_id) FROM raw_impressions GROUP BY 1").fetchall()
    assert dict(found) == {"train": 12_638, "valid": 1_602, "test": 3_222}
    most = "SELECT max(n) FROM (SELECT count(*) FILTER (click = 0) AS n FROM raw_impressions GROUP BY request_id)"
    assert one(real, most)[0] == complete_journey_products.NEGATIVES
    pairs = "SELECT count(*) - count(DISTINCT (request_id, item_id)) FROM raw_impressions"
    assert one(real, pairs)[0] == 0


def test_windows_of_the_splits_do_not_meet(real: duckdb.DuckDBPyConnection) -> None:
    rows = real.execute("SELECT split, min(moment), max(moment) FROM cj_moments GROUP BY 1 ORDER BY 2").fetchall()
    assert [row[0] for row in rows] == ["train", "valid", "test"]
    for (_, _, last), (_, first, _) in pairwise(rows):
        assert last + timedelta(days=complete_journey_products.WINDOW_DAYS) <= first


def test_labels_and_counts_of_a_few_requests_by_brute_force(real: duckdb.DuckDBPyConnection) -> None:
    requests = real.execute(
        "SELECT DISTINCT request_id, user_id, timestamp FROM raw_impressions ORDER BY md5(request_id) LIMIT 8"
    ).fetchall()
    for request, user, moment in requests:
        bought = real.execute(
            "SELECT CAST(product_id AS VARCHAR), basket_id, transaction_timestamp FROM cj_transactions "
            f"WHERE household_id = {int(user)}"
        ).fetchall()
        end: datetime = moment + timedelta(days=14)
        shown = real.execute(
            "SELECT item_id, click, conversion, times_bought FROM raw_impressions WHERE request_id = ?", [request]
        ).fetchall()
        catalogue = {row[0] for row in real.execute("SELECT item_id FROM raw_items").fetchall()}
        taken = {item for item, _, stamp in bought if moment <= stamp < end} & catalogue
        assert {item for item, click, *_ in shown if click} == taken
        for item, _, conversion, times in shown:
            later = {basket for other, basket, stamp in bought if other == item and moment <= stamp < end}
            before = {basket for other, basket, stamp in bought if other == item and stamp < moment}
            assert (conversion, times) == (int(len(later) > 1), len(before))


def test_catalogue_and_fields_do_not_see_what_comes_later(tmp_path: Path) -> None:
    """Cut all purchases after the first validation moment's window away: train and catalogue stay as they were."""
    folder = complete_journey._package_folder()
    con = duckdb.connect()
    complete_journey_products.load(con)
    moment = one(con, "SELECT moment FROM cj_moments WHERE split = 'valid'")[0]
    for name in (*complete_journey_products.FILES, "transactions"):
        where = f"WHERE transaction_timestamp < '{moment}'" if name == "transactions" else ""
        con.execute(f"COPY (SELECT * FROM cj_{name} {where}) TO '{tmp_path / name}.parquet' (FORMAT parquet)")
    assert folder.is_dir()
    cut = duckdb.connect()
    complete_journey_products.load(cut, tmp_path)
    query = """
        SELECT count(*), count(DISTINCT item_id), sum(click), sum(conversion), sum(times_bought), sum(popularity),
               bit_xor(hash(request_id || item_id)) FROM raw_impressions WHERE split = 'train'
    """
    expected, found = one(con, query), one(cut, query)
    assert found[:5] + found[6:] == expected[:5] + expected[6:]
    assert found[5] == pytest.approx(expected[5])
    items = "SELECT count(*), bit_xor(hash(item_id || title)) FROM raw_items"
    assert one(cut, items) == one(con, items)
