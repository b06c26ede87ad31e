"""A prepared folder that grows: the requests of some days, prepared after those of earlier parts.

A part reads only impressions of its own days, and of the events those of its shoppers. Items and things keep their
numbers of an earlier part, and rates and co-purchase go on from the counts that it left, so that a row is what it would
be if all days were prepared at once.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from equipoise.common.errors import UserError
from equipoise.data.manifest import CO_PURCHASE, THINGS
from equipoise.data.prepare.files import literal, quote
from equipoise.data.prepare.tables import Tables, moment, one
from equipoise.data.thing_columns import CoPurchase
from equipoise.data.values import text_sql

CARRIED = "carried"
"""Folder of a part with the counts that the rates of the next one go on from."""


class NoImpressions(UserError):
    """A part's days have no impressions."""


@dataclass(frozen=True)
class Part:
    """Which requests a part holds, and what it follows.

    Attributes:
        since: their first moment, UTC without a zone; None from the beginning.
        until: the moment before which they are.
        before: the folder of the part before; None of the first.
    """

    since: datetime | None
    until: datetime
    before: Path | None = None

    @property
    def known_items(self) -> Path | None:
        """The table of items whose numbers are kept."""
        return self.before / "items.parquet" if self.before is not None else None

    @property
    def known_things(self) -> Path | None:
        """The table of things whose numbers are kept."""
        return self.before / THINGS if self.before is not None else None

    @property
    def counted(self) -> CoPurchase | None:
        """What shoppers took together until the part before ended; None of the first part."""
        return CoPurchase.read(self.before / CO_PURCHASE) if self.before is not None else None

    def carried(self, file: str) -> Path | None:
        """The counts that a rate goes on from; None of the first part."""
        return self.before / CARRIED / file if self.before is not None else None

    def restrict(self, tables: Tables, co_purchase: bool = False) -> None:
        """Leave only the impressions of these days, and the events of their shoppers before the end.

        `co_purchase`: and those of all shoppers who took something since it was counted last.

        Impressions without a readable moment stay, so that they are refused or counted as usual.

        Raises:
            NoImpressions: there is none.
        """
        con, columns = tables.con, tables.columns("impressions")
        tables.follows = self.before is not None
        if "timestamp" not in columns:
            return  # which is refused with all other missing columns
        when = moment(quote("timestamp"), columns["timestamp"])
        since = f"{when} >= {_timestamp(self.since)} AND " if self.since is not None else ""
        _replace(tables, "impressions", f"coalesce({since}{when} < {_timestamp(self.until)}, true)")
        if not one(con, "SELECT count(*) FROM raw_impressions")[0]:
            begin = f"from {self.since:%Y-%m-%d} " if self.since is not None else ""
            raise NoImpressions(
                f"{tables.labels['impressions']} (data.tables.impressions) has no impression {begin}before "
                f"{self.until:%Y-%m-%d}: name a day whose logs are there"
            )
        events = tables.columns("events")
        if {"user_id", "timestamp"} <= set(events) and "user_id" in columns:
            shoppers = f"SELECT {text_sql('user_id', columns['user_id'])} FROM raw_impressions"
            earlier = f"{moment(quote('timestamp'), events['timestamp'])} < {_timestamp(self.until)}"
            user = text_sql("user_id", events["user_id"])
            mine = f"{user} IN ({shoppers})"
            if co_purchase:
                counted = self.counted
                until = datetime.fromisoformat(counted.until) if counted is not None and counted.until else None
                when = moment(quote("timestamp"), events["timestamp"])
                since = f" AND {when} > {_timestamp(until)}" if until is not None else ""
                mine = f"({mine} OR {user} IN (SELECT {user} FROM every_events WHERE {earlier}{since}))"
            _replace(tables, "events", f"{mine} AND coalesce({earlier}, true)")


def numbered_sql(name: str, number: str, values: str, before: Path | None) -> str:
    """A query that numbers texts in their order, after those that have their numbers already.

    Args:
        name, number: columns of the text and of its number.
        values: a query of distinct texts.
        before: Parquet file of the part before, with both columns; None of the first.
    """
    known = f"read_parquet({literal(str(before))})" if before else f"(SELECT '' AS {name}, 0 AS {number} LIMIT 0)"
    return f"""
        WITH known AS (SELECT {name}, {number} FROM {known})
        SELECT {name}, CAST({number} AS INTEGER) AS {number} FROM known
        UNION ALL
        SELECT {name}, CAST((SELECT count(*) FROM known) + row_number() OVER (ORDER BY {name}) - 1 AS INTEGER)
        FROM ({values}) WHERE {name} NOT IN (SELECT {name} FROM known)
    """


def _timestamp(value: datetime) -> str:
    return f"TIMESTAMP {literal(value.isoformat(sep=' '))}"


def _replace(tables: Tables, name: str, condition: str) -> None:
    """Put the rows of a raw relation that meet a condition in its place."""
    con = tables.con
    is_view = one(con, f"SELECT count(*) FROM duckdb_views() WHERE view_name = 'raw_{name}'")[0]
    con.execute(f"ALTER {'VIEW' if is_view else 'TABLE'} raw_{name} RENAME TO every_{name}")
    con.execute(f"CREATE TABLE raw_{name} AS SELECT * FROM every_{name} WHERE {condition}")
