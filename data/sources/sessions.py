"""What public logs have in common: files that were downloaded, and rows of what a user saw that become requests."""

from collections.abc import Sequence
from pathlib import Path

import duckdb

from equipoise.common.errors import UserError
from equipoise.data.prepare.files import columns_of, literal, quote
from equipoise.data.prepare.tables import Tables, one

SESSION_MINUTES = 30
"""Without anything seen for so long, what follows is another visit."""


def find_files(path: Path, patterns: Sequence[str], what: str) -> list[Path]:
    """The files of a downloaded set by the first pattern that matches, below a folder, or the file itself.

    Raises:
        UserError: there is none.
    """
    if path.is_file():
        return [path]
    for pattern in patterns:
        if found := sorted(path.rglob(pattern)):
            return found
    raise UserError(f"data.file {path} has no {' or '.join(patterns)}: name the folder of the downloaded {what}")


def read_csv(files: Sequence[Path], **options: str) -> str:
    """SQL that reads delimited files as text, all columns of all files by their names."""
    places = ", ".join(literal(str(file)) for file in files)
    given = {"delim": "','", "quote": "'\"'", "escape": "'\"'", "header": "true", "all_varchar": "true"} | options
    return f"read_csv([{places}], {', '.join(f'{name}={value}' for name, value in given.items())})"


def open_view(
    con: duckdb.DuckDBPyConnection, name: str, relation: str, columns: Sequence[str], files: Sequence[Path], what: str
) -> None:
    """Create a view of files, which must have the columns by which the set is known.

    Raises:
        UserError: a file cannot be read, or has other columns.
    """
    try:
        con.execute(f"CREATE VIEW {name} AS SELECT * FROM {relation}")
        known = columns_of(con, name)
        con.execute(f"SELECT * FROM {name} LIMIT 1").fetchall()
    except duckdb.Error as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{files[0]} cannot be read ({reason}): download {what} again") from error
    missing = [column for column in columns if column not in known]
    if missing:
        raise UserError(f"{files[0]} has no column '{missing[0]}', so it is not {what}: name the right file")


def write_requests(con: duckdb.DuckDBPyConnection, extra: Sequence[str] = (), session: str | None = None) -> None:
    """Create raw_impressions and raw_events from seen (user_id, timestamp, item_id, click, conversion, extra …).

    A request is a visit: what a user saw without a pause of SESSION_MINUTES, at the moment of the first of it. An item
    seen twice in it counts once, clicked where it was clicked at all. Events are the clicks and conversions.

    Args:
        con: with the table or view seen.
        extra: further columns, of which a request and item keep the first.
        session: the column that tells visits apart; None goes by pauses.
    """
    pause = (
        f"timestamp - lag(timestamp) OVER (PARTITION BY user_id ORDER BY timestamp) > INTERVAL {SESSION_MINUTES} MINUTE"
    )
    visit = f"CAST({quote(session)} AS VARCHAR)" if session else "CAST(visit AS VARCHAR)"
    con.execute(f"""
        CREATE TABLE visited AS
        SELECT * EXCLUDE (is_new), sum(is_new)
               OVER (PARTITION BY user_id ORDER BY timestamp ROWS UNBOUNDED PRECEDING) AS visit
        FROM (SELECT *, CAST(coalesce({pause}, true) AS INTEGER) AS is_new FROM seen)
    """)
    kept = "".join(f", arg_min({quote(name)}, timestamp) AS {quote(name)}" for name in extra)
    con.execute(f"""
        CREATE TABLE raw_impressions AS
        SELECT request_id, any_value(user_id) AS user_id, any_value(begun) AS timestamp, item_id, max(click) AS click,
               max(conversion) AS conversion, min(place) AS position{kept}
        FROM (SELECT *, user_id || '-' || {visit} AS request_id,
                     min(timestamp) OVER (PARTITION BY user_id, {visit}) AS begun,
                     row_number() OVER (PARTITION BY user_id, {visit} ORDER BY timestamp, item_id)
                            AS place FROM visited)
        GROUP BY request_id, item_id
    """)
    con.execute("""
        CREATE TABLE raw_events AS
        SELECT DISTINCT user_id, timestamp, item_id, CASE WHEN conversion = 1 THEN 'conversion' ELSE 'click' END AS kind
        FROM seen WHERE click = 1 OR conversion = 1
    """)
    con.execute("DROP TABLE visited")


def write_first_seen(con: duckdb.DuckDBPyConnection) -> None:
    """Create raw_users (user_id, since): the month in which a user was first seen, for sets that say no more."""
    con.execute(
        "CREATE TABLE raw_users AS "
        "SELECT user_id, strftime(min(timestamp), '%Y-%m') AS since FROM seen GROUP BY user_id"
    )


def tables_of(
    con: duckdb.DuckDBPyConnection, source: str, path: Path, notes: Sequence[str], split: str | None = None
) -> Tables:
    """The raw tables that a source has made.

    Raises:
        UserError: nothing was seen.
    """
    if not one(con, "SELECT count(*) FROM raw_impressions")[0]:
        raise UserError(f"data.file {path} holds nothing that a user saw: name the downloaded files")
    made = {name for (name,) in con.execute("SELECT table_name FROM information_schema.tables").fetchall()}
    names = [name for name in ("impressions", "items", "users", "events") if f"raw_{name}" in made]
    return Tables(con, source=source, labels=dict.fromkeys(names, str(path)), split_column=split, notes=list(notes))
