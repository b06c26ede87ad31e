"""Criteo Attribution (Diemert et al., AdKDD 2017, for research): banners of campaigns, clicks and attributed sales.

`data.file` is criteo_attribution_dataset.tsv or .tsv.gz. A request is a visit of a user, its candidates are the
campaigns that were shown; a conversion is a sale that Criteo was credited with. Numbers are all that is known of a
campaign; its provider is the first of its contexts (cat1). The group is whether a user had clicked before.
"""

from pathlib import Path

import duckdb

from equipoise.data.prepare.tables import Tables
from equipoise.data.sources.sessions import find_files, open_view, read_csv, tables_of, write_requests

WHAT = "Criteo Attribution"
COLUMNS = (
    "timestamp",
    "uid",
    "campaign",
    "conversion",
    "attribution",
    "click",
    "cost",
    "time_since_last_click",
    "cat1",
)
CONTEXTS = ("cat2", "cat3", "cat4", "cat5")


def load(con: duckdb.DuckDBPyConnection, path: Path) -> Tables:
    """Create the raw tables from the log.

    Raises:
        UserError: the file is missing, or has other columns.
    """
    files = find_files(path, ("criteo_attribution_dataset.tsv*", "*.tsv", "*.tsv.gz"), WHAT)
    open_view(con, "cr_log", read_csv(files, delim="'\t'"), (*COLUMNS, *CONTEXTS), files, WHAT)
    con.execute(f"""
        CREATE VIEW seen AS
        SELECT uid AS user_id, TIMESTAMP '2017-01-01' + to_seconds(CAST(timestamp AS BIGINT)) AS timestamp,
               campaign AS item_id,
               CAST(click AS INTEGER) AS click, CAST(click AS INTEGER) * CAST(attribution AS INTEGER) AS conversion,
               CAST(cost AS DOUBLE) AS cost, time_since_last_click, {", ".join(CONTEXTS)}
        FROM cr_log
    """)
    con.execute("""
        CREATE TABLE raw_items AS SELECT campaign AS item_id, 'campaign ' || campaign AS title, mode(cat1) AS category,
        mode(cat1) AS provider FROM cr_log GROUP BY campaign
    """)
    con.execute("""
        CREATE TABLE raw_users AS SELECT user_id, CASE WHEN CAST(arg_min(time_since_last_click, timestamp)
               AS BIGINT) < 0
        THEN 'never clicked' ELSE 'clicked before' END AS known FROM seen GROUP BY user_id
    """)
    write_requests(con, extra=("cost", *CONTEXTS))
    return tables_of(con, "criteo_attribution", path, ["Moments count from 2017-01-01: the set tells seconds alone."])
