"""Things in the tables: the numbered texts by which candidates and histories are compared, and those of requests."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from equipoise.common.errors import UserError
from equipoise.configs.priors import ComparisonConfig
from equipoise.configs.schema import HistoryConfig
from equipoise.data.prepare.files import columns_of, quote
from equipoise.data.prepare.history import of_kinds, request_parts
from equipoise.data.prepare.parts import numbered_sql
from equipoise.data.prepare.tables import Tables
from equipoise.data.values import text_sql


def number_things(
    tables: Tables, config: ComparisonConfig, history: Sequence[HistoryConfig], before: Path | None = None
) -> None:
    """Create things (thing_index, text), item_things (item_id, thing_index), thing_events (user_id, timestamp, thing).

    Events are those of the history's kinds, of all users. The text of an event is its title, where events have no such
    column the text of its item. Reads item_numbers; what has no text has no row.

    `before`: things.parquet of what these impressions follow, whose things keep their numbers.

    Raises:
        UserError: there are no events.
    """
    if not tables.has("events"):
        raise UserError("data.comparison needs events: set data.tables.events, or drop it")
    con = tables.con
    of_item = f"trim({text_sql(f'i.{quote(config.item)}', columns_of(con, 'items')[config.item])})"
    titled = "title" in tables.columns("events")
    text, join = ("trim(e.title)", "") if titled else (of_item, "JOIN items i ON i.item_id = e.item_id")
    con.execute(f"""
        CREATE TABLE event_texts AS
        SELECT e.user_id, e.timestamp, {text} AS text FROM events e {join}
        WHERE ({" OR ".join(of_kinds(tables, section) for section in history)}) AND {text} <> ''
    """)
    con.execute(f"""
        CREATE TABLE item_things_text AS
        SELECT n.item_id, {of_item} AS text FROM item_numbers n JOIN items i USING (item_id) WHERE {of_item} <> ''
    """)
    named = "SELECT text FROM event_texts UNION SELECT text FROM item_things_text"
    con.execute(f"CREATE TABLE things AS {numbered_sql('text', 'thing_index', named, before)}")
    con.execute(
        "CREATE TABLE item_things AS SELECT i.item_id, t.thing_index FROM item_things_text i JOIN things t USING (text)"
    )
    con.execute("""
        CREATE TABLE thing_events AS
        SELECT e.user_id, e.timestamp, t.thing_index AS thing FROM event_texts e JOIN things t USING (text)
    """)
    con.execute("DROP TABLE event_texts")
    con.execute("DROP TABLE item_things_text")


def write_things(tables: Tables, path: Path) -> None:
    """Write the table things as things.parquet, ordered by thing_index."""
    reader = tables.con.sql("SELECT thing_index, text FROM things ORDER BY thing_index").to_arrow_reader(100_000)
    with pq.ParquetWriter(path, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)


def write_slate_things(tables: Tables, config: ComparisonConfig | None) -> None:
    """Create slate_things (ordinal, things): distinct things of a shopper's events strictly before each request.

    The latest come first, those of one moment by their text; at most `max_events`. Requests without any have no row.
    """
    con = tables.con
    con.execute("CREATE TABLE slate_things (ordinal BIGINT, things INTEGER[])")
    if config is None or not config.max_events:
        return
    for part, parts in request_parts(con, "thing_events"):
        con.execute(f"""
            INSERT INTO slate_things
            WITH taken AS (
                SELECT r.ordinal, e.thing, max(e.timestamp) AS latest
                FROM requests r JOIN thing_events e ON e.user_id = r.user_id AND e.timestamp < r.timestamp
                WHERE hash(r.user_id) % {parts} = {part}
                GROUP BY r.ordinal, e.thing
            ), ranked AS (
                SELECT k.ordinal, k.thing,
                       row_number() OVER (PARTITION BY k.ordinal ORDER BY k.latest DESC, t.text) AS rank
                FROM taken k JOIN things t ON t.thing_index = k.thing
            )
            SELECT ordinal, list(thing ORDER BY rank) FROM ranked WHERE rank <= {config.max_events} GROUP BY ordinal
        """)
