"""What a user did before a request: titles of the events strictly before it, chosen and ordered in one way only.

`write_histories` does it set-wise in DuckDB.
"""

import math
from collections.abc import Iterable, Sequence

import duckdb

from equipoise.common.errors import UserError
from equipoise.configs.schema import HistoryConfig, sections_of
from equipoise.data.prepare.files import literal
from equipoise.data.prepare.tables import Tables, one

# A join of requests and events is cut into parts by user, so that no part holds more pairs than this.
MAX_PAIRS = 20_000_000

_ORDER = {"recent": "latest DESC, times DESC, title", "frequent": "times DESC, latest DESC, title"}


def write_histories(tables: Tables, history: HistoryConfig | Sequence[HistoryConfig]) -> None:
    """Create `histories` (ordinal, section, titles) from `requests` (ordinal, user_id, timestamp) and `events`.

    Only events with timestamp < the request's timestamp count. Events without a title are left out and counted.

    Raises:
        UserError: a section names a kind that no event has.
    """
    con = tables.con
    con.execute("CREATE TABLE histories (ordinal BIGINT, section TINYINT, titles VARCHAR[])")
    sections = {number: section for number, section in enumerate(sections_of(history)) if section.max_events}
    if not sections or not tables.has("events"):
        return
    _write_titled(tables, list(sections.values()))
    for number, section in sections.items():
        _write_section(tables, number, section)
    con.execute("DROP TABLE titled_events")


def _write_section(tables: Tables, number: int, config: HistoryConfig) -> None:
    con, condition = tables.con, of_kinds(tables, config)
    for part, parts in request_parts(con, f"(SELECT * FROM titled_events e WHERE {condition})"):
        con.execute(f"""
            INSERT INTO histories
            WITH titled AS (
                SELECT ordinal, title, max(timestamp) AS latest, count(*) AS times
                FROM (
                    SELECT r.ordinal, e.title, e.timestamp
                    FROM requests r JOIN titled_events e ON e.user_id = r.user_id AND e.timestamp < r.timestamp
                    WHERE hash(r.user_id) % {parts} = {part} AND {condition}
                    {_latest(config, "e.title")}
                ) GROUP BY ordinal, title
            ), ranked AS (
                SELECT *, row_number() OVER (PARTITION BY ordinal ORDER BY {_ORDER[config.order]}) AS rank FROM titled
            )
            SELECT ordinal, {number}, list(title ORDER BY rank) FROM ranked WHERE rank <= {config.max_events}
            GROUP BY ordinal
        """)


def _latest(config: HistoryConfig, tie: str) -> str:
    """The SQL clause that keeps a request's latest events alone, those of one moment by `tie`."""
    if config.latest is None:
        return ""
    order = f"PARTITION BY r.ordinal ORDER BY e.timestamp DESC, {tie}"
    return f"QUALIFY row_number() OVER ({order}) <= {config.latest}"


def write_bought(tables: Tables, history: HistoryConfig | Sequence[HistoryConfig]) -> None:
    """Create `bought` (ordinal, items, times): the catalogue items of a request's earlier events, items ascending.

    Items are numbers of item_numbers. Empty where `items` of no section is set.

    Raises:
        UserError: it is set, but there are no events, or none of a kind.
    """
    con = tables.con
    con.execute("CREATE TABLE bought (ordinal BIGINT, items INTEGER[], times INTEGER[])")
    sections = [section for section in sections_of(history) if section.items]
    if not sections:
        return
    if not tables.has("events"):
        raise UserError("data.history.items needs events: set data.tables.events, or drop it")
    con.execute(f"""
        CREATE TABLE numbered_events AS
        SELECT e.user_id, e.timestamp, n.item_index AS item
        FROM events e JOIN item_numbers n USING (item_id)
        SEMI JOIN (SELECT DISTINCT user_id FROM requests) r ON r.user_id = e.user_id
        WHERE {" OR ".join(of_kinds(tables, section) for section in sections)}
    """)
    latest = _latest(max(sections, key=lambda section: section.latest or math.inf), "e.item")
    for part, parts in request_parts(con, "numbered_events"):
        con.execute(f"""
            INSERT INTO bought
            SELECT ordinal, list(item ORDER BY item), list(times ORDER BY item)
            FROM (
                SELECT ordinal, item, CAST(count(*) AS INTEGER) AS times
                FROM (
                    SELECT r.ordinal, e.item
                    FROM requests r JOIN numbered_events e ON e.user_id = r.user_id AND e.timestamp < r.timestamp
                    WHERE hash(r.user_id) % {parts} = {part} {latest}
                ) GROUP BY ordinal, item
            ) GROUP BY ordinal
        """)
    con.execute("DROP TABLE numbered_events")


def of_kinds(tables: Tables, config: HistoryConfig) -> str:
    """The SQL condition that an event e is of the kinds of a section.

    Raises:
        UserError: no event is of one of them.
    """
    if config.kinds is None:
        return "true"
    where = f"{tables.labels['events']} (data.tables.events)"
    if "kind" not in tables.columns("events"):
        raise UserError(f"{where} has no column 'kind', which data.history.kinds reads: add it or drop kinds")
    known = {kind for (kind,) in tables.con.execute("SELECT DISTINCT kind FROM events").fetchall()}
    for kind in config.kinds:
        if kind not in known and not tables.follows:
            kinds = ", ".join(sorted(map(str, known - {None}))) or "none"
            raise UserError(
                f"{where} has no event of kind '{kind}', which data.history.kinds names (there are {kinds}): correct it"
            )
    return f"e.kind IN ({', '.join(map(literal, config.kinds))})" if config.kinds else "false"


def _write_titled(tables: Tables, sections: Sequence[HistoryConfig]) -> None:
    """Create `titled_events` (user_id, timestamp, kind, title): the events' own titles, or those of their items."""
    con = tables.con
    columns = tables.columns("events")
    kind = "e.kind" if "kind" in columns else "NULL"
    titled = "title" in columns
    title = "e.title" if titled else "i.title"
    join = "" if titled else "LEFT JOIN items i ON i.item_id = e.item_id"
    con.execute(f"""
        CREATE TABLE titled_events AS
        SELECT e.user_id, e.timestamp, {kind} AS kind, trim({title}) AS title
        FROM events e {join} SEMI JOIN (SELECT DISTINCT user_id FROM requests) r ON r.user_id = e.user_id
        WHERE {" OR ".join(of_kinds(tables, section) for section in sections)}
    """)
    untitled = "SELECT count(*) FROM titled_events WHERE title IS NULL OR title = ''"
    tables.drop("events without a title", one(con, untitled)[0])
    con.execute("DELETE FROM titled_events WHERE title IS NULL OR title = ''")


def request_parts(con: duckdb.DuckDBPyConnection, events: str) -> Iterable[tuple[int, int]]:
    pairs = one(
        con,
        f"""
        SELECT coalesce(sum(r.n * e.n), 0)
        FROM (SELECT user_id, count(*) AS n FROM requests GROUP BY user_id) r
        JOIN (SELECT user_id, count(*) AS n FROM {events} GROUP BY user_id) e USING (user_id)
        """,
    )[0]
    parts = int(pairs) // MAX_PAIRS + 1
    return [(part, parts) for part in range(parts)]
