"""Amazon Reviews 2023 (Hou et al., 2024): which product does a shopper review next, and with at least four stars?

`data.file` is a folder of CATEGORY.jsonl and meta_CATEGORY.jsonl (or .jsonl.gz). A request is a review: its candidates
are the reviewed product (a click; a conversion where it got four stars or more) and others, drawn in proportion to how
often earlier reviews named them, so that popularity alone ranks by chance. The provider is the store; the group is the
month of a shopper's first review.
"""

from pathlib import Path

import duckdb

from equipoise.data.prepare.files import literal
from equipoise.data.prepare.tables import Tables
from equipoise.data.sources.sessions import find_files, open_view, tables_of, write_first_seen

WHAT = "Amazon Reviews 2023"
OTHERS = 19
"""Products that are drawn for a review; some fall away as duplicates."""
NOTES = ("A candidate that was not reviewed was drawn: nothing says that the shopper saw it.",)


def load(con: duckdb.DuckDBPyConnection, path: Path) -> Tables:
    """Create the raw tables from reviews and products.

    Raises:
        UserError: a file is missing, or has other columns.
    """
    metas = find_files(path, ("meta_*.jsonl*",), WHAT)
    folder = path if path.is_dir() else path.parent
    reviews = [file for file in find_files(folder, ("*.jsonl*",), WHAT) if not file.name.startswith("meta_")]
    reviews = reviews or find_files(folder, ("[!m]*.jsonl*",), WHAT)
    columns = {"rating": "DOUBLE", "parent_asin": "VARCHAR", "user_id": "VARCHAR", "timestamp": "BIGINT"}
    open_view(con, "ar_reviews", _json(reviews, columns), tuple(columns), reviews, WHAT)
    about = {
        "parent_asin": "VARCHAR",
        "title": "VARCHAR",
        "main_category": "VARCHAR",
        "store": "VARCHAR",
        "price": "VARCHAR",
        "categories": "VARCHAR[]",
    }
    open_view(con, "ar_products", _json(metas, about), tuple(about), metas, WHAT)
    con.execute("""
        CREATE TABLE raw_items AS
        SELECT DISTINCT ON (parent_asin) parent_asin AS item_id, title, coalesce(categories[2],
               main_category) AS category,
               categories[-1] AS kind, store AS provider, store AS brand, TRY_CAST(price AS DOUBLE) AS price
        FROM ar_products WHERE parent_asin IS NOT NULL
    """)
    con.execute("""
        CREATE TABLE ar_ordered AS
        SELECT *, row_number() OVER (ORDER BY timestamp, user_id, item_id) AS place,
               rank() OVER (ORDER BY timestamp) - 1 AS earlier
        FROM (SELECT user_id, make_timestamp(timestamp * 1000) AS timestamp, parent_asin AS item_id,
               max(rating) AS rating
              FROM ar_reviews SEMI JOIN raw_items i ON i.item_id = parent_asin
              WHERE user_id IS NOT NULL AND timestamp IS NOT NULL GROUP BY ALL)
    """)
    con.execute("CREATE VIEW seen AS SELECT user_id, timestamp, item_id FROM ar_ordered")
    con.execute(f"""
        CREATE TABLE raw_impressions AS
        WITH drawn AS (
            SELECT r.user_id, r.timestamp, o.item_id FROM (
                SELECT user_id, timestamp, CAST(hash(user_id, timestamp, n) % earlier AS BIGINT) + 1 AS chosen
                FROM (SELECT DISTINCT user_id, timestamp, earlier FROM ar_ordered WHERE earlier > 0),
                       range({OTHERS}) t(n)
            ) r JOIN ar_ordered o ON o.place = r.chosen
        ), shown AS (
            SELECT user_id, timestamp, item_id, 1 AS click, CAST(rating >= 4 AS INTEGER) AS conversion
                   FROM ar_ordered WHERE earlier > 0
            UNION ALL
            SELECT DISTINCT user_id, timestamp, item_id, 0, 0 FROM drawn ANTI JOIN ar_ordered USING (user_id,
                   timestamp, item_id)
        )
        SELECT user_id || '-' || epoch_ms(timestamp) AS request_id, * FROM shown
    """)
    con.execute("CREATE TABLE raw_events AS SELECT user_id, timestamp, item_id, 'review' AS kind FROM ar_ordered")
    write_first_seen(con)
    return tables_of(con, "amazon_reviews", path, NOTES)


def _json(files: list[Path], columns: dict[str, str]) -> str:
    places = ", ".join(literal(str(file)) for file in files)
    kinds = ", ".join(f"{name}: '{kind}'" for name, kind in columns.items())
    return f"read_json([{places}], format='newline_delimited', columns={{{kinds}}})"
