"""Retailrocket (CC BY-NC-SA 4.0): what visitors of a shop viewed, put in the cart and bought.

`data.file` is the unpacked folder: events.csv, item_properties_part*.csv, category_tree.csv. A request is a visit, its
candidates are the items that were seen in it; a click is an item put in the cart or bought, a conversion one bought.
Words are hashed, so that the category is all that is known of an item: the last one that was known of it before the
first event of all, or its first one. The provider is the category above; the group is the month of the first visit.
"""

from pathlib import Path

import duckdb

from equipoise.data.prepare.tables import Tables
from equipoise.data.sources.sessions import find_files, open_view, read_csv, tables_of, write_first_seen, write_requests

WHAT = "Retailrocket"


def load(con: duckdb.DuckDBPyConnection, path: Path) -> Tables:
    """Create the raw tables from events, item properties and the tree of categories.

    Raises:
        UserError: a file is missing, or has other columns.
    """
    folder = path if path.is_dir() else path.parent
    files = {
        "events": (find_files(folder, ("events.csv",), WHAT), ("timestamp", "visitorid", "event", "itemid")),
        "properties": (
            find_files(folder, ("item_properties*.csv",), WHAT),
            ("timestamp", "itemid", "property", "value"),
        ),
        "tree": (find_files(folder, ("category_tree.csv",), WHAT), ("categoryid", "parentid")),
    }
    for name, (found, columns) in files.items():
        open_view(con, f"rr_{name}", read_csv(found), columns, found, WHAT)
    con.execute("""
        CREATE VIEW seen AS
        SELECT visitorid AS user_id, make_timestamp(CAST(timestamp AS BIGINT) * 1000) AS timestamp, itemid AS item_id,
               CAST(event IN ('addtocart', 'transaction') AS INTEGER) AS click, CAST(event = 'transaction'
                      AS INTEGER) AS conversion
        FROM rr_events
    """)
    con.execute("""
        CREATE TABLE raw_items AS
        WITH dated AS (
            SELECT itemid, value, CAST(timestamp AS BIGINT) AS moment,
                   CAST(timestamp AS BIGINT) <= (SELECT min(CAST(timestamp AS BIGINT)) FROM rr_events) AS before
            FROM rr_properties WHERE property = 'categoryid'
        ), known AS (
            SELECT itemid, coalesce(arg_max(value, moment) FILTER (before), arg_min(value, moment)) AS category
            FROM dated GROUP BY itemid
        )
        SELECT e.item_id, 'item of category ' || coalesce(k.category, 'unknown')
                   || coalesce(' below ' || t.parentid, '') AS title, k.category, t.parentid AS provider
        FROM (SELECT DISTINCT itemid AS item_id FROM rr_events) e LEFT JOIN known k ON k.itemid = e.item_id
        LEFT JOIN (SELECT categoryid, any_value(nullif(parentid, '')) AS parentid FROM rr_tree GROUP BY 1) t
            ON t.categoryid = k.category
    """)
    write_first_seen(con)
    write_requests(con)
    return tables_of(con, "retailrocket", path, ["Candidates are the items that a visit saw, not all that was shown."])
