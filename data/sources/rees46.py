"""REES46 (eCommerce behaviour data of a multi-category store, Kechinov): what was viewed, put in the cart and bought.

`data.file` is a downloaded month (2019-Oct.csv, or .csv.gz) or a folder of several. A request is a user_session, its
candidates are the products that were seen in it; a click is a product put in the cart or bought, a conversion one
bought. The provider is the brand; the group is the month in which a user was first seen.
"""

from pathlib import Path

import duckdb

from equipoise.data.prepare.tables import Tables
from equipoise.data.sources.sessions import find_files, open_view, read_csv, tables_of, write_first_seen, write_requests

WHAT = "REES46"
COLUMNS = ("event_time", "event_type", "product_id", "category_code", "brand", "price", "user_id", "user_session")


def load(con: duckdb.DuckDBPyConnection, path: Path) -> Tables:
    """Create the raw tables from the events.

    Raises:
        UserError: the file is missing, or has other columns.
    """
    files = find_files(path, ("*.csv", "*.csv.gz"), WHAT)
    open_view(con, "re_log", read_csv(files), COLUMNS, files, WHAT)
    con.execute("""
        CREATE VIEW seen AS
        SELECT user_id, TRY_CAST(replace(event_time, ' UTC', '') AS TIMESTAMP) AS timestamp, product_id AS item_id,
               CAST(event_type IN ('cart', 'purchase') AS INTEGER) AS click, CAST(event_type = 'purchase'
                      AS INTEGER) AS conversion,
               TRY_CAST(price AS DOUBLE) AS price, user_session
        FROM re_log WHERE event_type <> 'remove_from_cart' AND user_session <> ''
    """)
    con.execute("""
        CREATE TABLE raw_items AS
        SELECT item_id, coalesce(replace(replace(code, '.', ' '), '_', ' '),
               'product') || coalesce(' by ' || brand, '') AS title,
               split_part(code, '.', 1) AS category, code AS kind, brand, brand AS provider
        FROM (SELECT product_id AS item_id, max(nullif(category_code, '')) AS code, max(nullif(brand, '')) AS brand
              FROM re_log GROUP BY product_id)
    """)
    write_first_seen(con)
    write_requests(con, extra=("price",), session="user_session")
    return tables_of(con, "rees46", path, ["Candidates are the products that a session saw, not all that was shown."])
