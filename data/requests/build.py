"""Makes a file of requests from users, candidates and the tables of a run: histories as `prepare` joins them.

A request is a user at a moment. Everything that is told of it was known strictly before: its history comes from the
events, its attributes from the given users, else from the users table. What an item is, the run's or export's own items
say, so that candidates need no more than an item_id and what depends on the moment, such as a price.
"""

import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from equipoise.common.atomic import atomic_write
from equipoise.common.errors import UserError
from equipoise.common.nearest import did_you_mean
from equipoise.configs.schema import DataConfig
from equipoise.configs.tables import TableFile, YesNoWords
from equipoise.data.database_bar import hide_bar
from equipoise.data.prepare.files import CSV, JSON_LINES, PARQUET, columns_of, literal, quote
from equipoise.data.prepare.history import write_bought, write_histories
from equipoise.data.prepare.mapped import open_table_file, refuse_unread
from equipoise.data.prepare.slates import open_source
from equipoise.data.prepare.tables import ID_COLUMNS, Tables, moment, one, open_files, stage
from equipoise.data.prepare.things import number_things, write_slate_things
from equipoise.data.prompts import piece_fields
from equipoise.data.values import plain_sql, text_sql

OWN = ("request_id", "user_id", "timestamp", "item_id", "history", "recent")
"""Columns of requests that no attribute may be called."""
LISTS = ("history", "recent", "bought")
"""Columns with a list per request."""


@dataclass
class Built:
    """What a file of requests holds: counts, and notes on what is missing in it."""

    requests: int
    candidates: int
    with_history: int
    notes: list[str] = field(default_factory=list)


def build_requests(config: DataConfig, users: Path, candidates: Path, at: datetime, out: Path) -> Built:
    """Write the requests of all users of a file for the given candidates, whole or not at all.

    Args:
        config: of the data of the run: tables, prompts, histories.
        users: table with user_id; optional timestamp (else `at`), request_id (else the user_id) and attributes.
        candidates: table with item_id, optional request_id or user_id (else all users have all candidates) and more
            columns, each with a value per candidate. Both may have the names and spellings of the run's own tables.
        at: the moment of the requests; without a time zone it is UTC.
        out: .parquet or .jsonl with a row per request, or .csv with a row per candidate.

    Raises:
        UserError: a file or column is missing or cannot be read, or a user has no candidates.
    """
    if not out.name.lower().endswith((*PARQUET, *JSON_LINES, ".csv")):
        raise UserError(f"--out {out} has an unknown ending: use .parquet, .csv or .jsonl")
    with tempfile.TemporaryDirectory() as work, closing(duckdb.connect(str(Path(work) / "work.duckdb"))) as con:
        hide_bar(con)
        con.execute("SET TimeZone = 'UTC'; SET preserve_insertion_order = true")
        tables = _open(con, config, Path(work))
        built = Built(0, 0, 0)
        own = _read(con, "given_users", users, config, ("users",), Path(work))
        offered = _read(con, "given_candidates", candidates, config, ("impressions", "items"), Path(work))
        _check_given(users, own, candidates, offered, config.keeps_items)
        _write_requests(con, own, users, at)
        _join_histories(tables, config)
        told = _attributes(con, tables, config, own, offered, built)
        _write_candidates(con, offered, candidates)
        query = _query(con, config, told, offered)
        with atomic_write(out) as partial:
            _copy(con, query, out, partial, offered)
        built.requests = one(con, "SELECT count(*) FROM requests")[0]
        built.candidates = one(con, f"SELECT coalesce(sum(len(item_id)), 0) FROM ({query})")[0]
        built.with_history = one(con, "SELECT count(DISTINCT ordinal) FROM histories")[0]
    return built


def _open(con: duckdb.DuckDBPyConnection, config: DataConfig, work: Path) -> Tables:
    """items, users and events, cleaned as `prepare` does."""
    if config.tables is not None:
        tables = open_files(con, config.tables, work, without=("impressions",))
    else:
        tables = open_source(con, config, work)
    stage(tables, "items", tables.columns("items"))
    if tables.has("users"):
        stage(tables, "users", tables.columns("users"))
    if tables.has("events"):
        optional = [name for name in ("title", "kind") if name in tables.columns("events")]
        stage(tables, "events", ["user_id", "timestamp", "item_id", *optional])
    return tables


def _read(
    con: duckdb.DuckDBPyConnection, name: str, path: Path, config: DataConfig, like: Sequence[str], work: Path
) -> dict[str, str]:
    """Create a table of plain values of a file, rows numbered by _row; returns its columns and types.

    The file may be called and written as the run's tables `like`, the first of which goes first.
    """
    files = config.tables.files if config.tables is not None else {}
    known = [files[table] for table in like if table in files]
    encodings = dict.fromkeys(["utf-8", *(file.encoding for file in known)])
    for number, encoding in enumerate(encodings):
        try:
            probe = f"{name}_{number}"
            open_table_file(con, probe, TableFile(path=str(path), encoding=encoding), work / probe)
            con.execute(f"SELECT count(COLUMNS(*)) FROM raw_{probe}").fetchall()
            break
        except (UserError, duckdb.Error) as error:
            if number == len(encodings) - 1:
                reason = str(error) if isinstance(error, UserError) else f"{path} cannot be read: {error}"
                raise UserError(
                    reason.replace(f" (data.tables.{name}_{number})", "").replace(f"data.tables.{name}_{number} ", "")
                ) from error
    header = columns_of(con, f"raw_{probe}")
    columns: dict[str, str | list[str]] = {}
    formats: dict[str, str | YesNoWords] = {}
    for file in known:
        for ours, theirs in file.columns.items():
            if isinstance(theirs, str) and theirs in header and ours not in header:
                columns.setdefault(ours, theirs)
        formats = {o: f for o, f in file.formats.items() if o in columns or o in header} | formats
    zone = known[0].timezone if known else "UTC"
    mapped = TableFile(path=str(path), columns=columns, formats=formats, encoding=encoding, timezone=zone)
    for column in open_table_file(con, name, mapped, work / name):
        refuse_unread(con, str(path), column)
    kinds = columns_of(con, f"raw_{name}")
    selected = ", ".join(f"{_plain(column, kind)} AS {quote(column)}" for column, kind in kinds.items())
    con.execute(f"CREATE TABLE {name} AS SELECT row_number() OVER () - 1 AS _row, {selected} FROM raw_{name}")
    if not one(con, f"SELECT count(*) FROM {name}")[0]:
        raise UserError(f"{path} has no rows: give it at least one")
    return {column: kind for column, kind in columns_of(con, name).items() if column != "_row"}


def _plain(column: str, kind: str) -> str:
    if column in ID_COLUMNS:
        return f"nullif({text_sql(quote(column), kind)}, '')"
    return moment(quote(column), kind) if column == "timestamp" else plain_sql(quote(column), kind)


def _check_given(
    users: Path, own: dict[str, str], candidates: Path, offered: dict[str, str], keeps_items: bool
) -> None:
    for path, columns, name in ((users, own, "user_id"), (candidates, offered, "item_id")):
        if name not in columns:
            raise UserError(f"{path} has no column '{name}'{did_you_mean(name, columns)}: add it")
    both = [name for name in own if name in offered and name not in ("user_id", "request_id")]
    if both:
        raise UserError(f"{users} and {candidates} both have a column '{both[0]}': drop one")
    for path, columns in ((users, own), (candidates, offered)):
        for name in ("history", "recent", *(("bought",) if keeps_items else ())):
            if name in columns:
                raise UserError(f"{path} has a column '{name}', which is made from the events: drop it")


def _write_requests(con: duckdb.DuckDBPyConnection, own: dict[str, str], users: Path, at: datetime) -> None:
    """Create requests (ordinal, request_id, user_id, timestamp), one for each row of the users."""
    now = (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC).replace(tzinfo=None)
    stamp = f"CAST({literal(now.isoformat(sep=' '))} AS TIMESTAMP)"
    when = f"coalesce(timestamp, {stamp})" if "timestamp" in own else stamp
    name = "coalesce(request_id, user_id)" if "request_id" in own else "user_id"
    con.execute(f"""
        CREATE TABLE requests AS
        SELECT _row AS ordinal, {name} AS request_id, user_id, {when} AS timestamp FROM given_users ORDER BY _row
    """)
    missing = con.execute("SELECT ordinal + 1 FROM requests WHERE user_id IS NULL ORDER BY 1 LIMIT 1").fetchone()
    if missing:
        raise UserError(f"{users} has no user_id in row {missing[0]}: fill it or drop the row")
    twice = con.execute("SELECT request_id FROM requests GROUP BY 1 HAVING count(*) > 1 ORDER BY 1 LIMIT 1").fetchone()
    if twice:
        raise UserError(f"{users} has request '{twice[0]}' twice: keep one row per user, or give each a request_id")


def _join_histories(tables: Tables, config: DataConfig) -> None:
    """Create histories, and where the run compares things with them, slate_things; both strictly before a request."""
    write_histories(tables, config.history_sections)
    tables.con.execute("""
        CREATE TABLE item_numbers AS
        SELECT item_id, CAST(row_number() OVER (ORDER BY item_id) - 1 AS INTEGER) AS item_index
        FROM (SELECT DISTINCT item_id FROM items)
    """)
    if config.keeps_items:
        write_bought(tables, config.history_sections)
    if config.comparison is not None and tables.has("events"):
        number_things(tables, config.comparison, config.history_sections)
        write_slate_things(tables, config.comparison)


def _attributes(
    con: duckdb.DuckDBPyConnection,
    tables: Tables,
    config: DataConfig,
    own: dict[str, str],
    offered: dict[str, str],
    built: Built,
) -> dict[str, str]:
    """SQL of what is told of each user, by name: the given columns, else those of users that the run reads."""
    told = {name: f"g.{quote(name)}" for name in own if name not in OWN}
    users = tables.columns("users") if tables.has("users") else {}
    items = tables.columns("items")
    numeric = {feature.name for feature in config.features if feature.scale != "category"}
    wanted = [*piece_fields(config.prompt.prefix), *(f.name for f in config.features if f.name not in items)]
    wanted += [key for rate in config.rates for key in rate.by if key not in items]
    computed = {name for rate in config.rates for name in rate.names}
    missing = []
    for name in dict.fromkeys(wanted):
        if name in OWN or name in told or name in offered or name in computed:
            continue
        if name in users:
            told[name] = f"u.{quote(name)}"
        else:
            missing.append(name)
    missing += [n for n in piece_fields(config.prompt.context) if n not in offered and n not in OWN]
    if missing:
        built.notes.append(f"neither users nor candidates have {', '.join(dict.fromkeys(missing))}: they are unknown.")
    # A number of the user is read per candidate.
    return {name: f"[{sql} FOR _ IN c.item_id]" if name in numeric else sql for name, sql in told.items()}


def _write_candidates(con: duckdb.DuckDBPyConnection, offered: dict[str, str], candidates: Path) -> None:
    """Create offers: lists of the candidates' columns, one row for all or one per user.

    Raises:
        UserError: an item is unknown or missing, or a user has no candidates.
    """
    bad = con.execute("""
        SELECT _row + 1, item_id FROM given_candidates
        WHERE item_id IS NULL OR item_id NOT IN (SELECT item_id FROM items) ORDER BY _row LIMIT 1
    """).fetchone()
    if bad:
        what = "no item_id" if bad[1] is None else f"item '{bad[1]}', which the items table lacks,"
        raise UserError(f"{candidates} has {what} in row {bad[0]}: correct the row or add the item")
    columns = [name for name in offered if name not in ("user_id", "request_id")]
    lists = ", ".join(f"list({quote(name)} ORDER BY _row) AS {quote(name)}" for name in columns)
    key = _key(offered)
    if key is None:
        con.execute(f"CREATE TABLE offers AS SELECT {lists} FROM given_candidates")
        return
    con.execute(f"CREATE TABLE offers AS SELECT {key}, {lists} FROM given_candidates GROUP BY {key}")
    empty = f"SELECT {key} FROM requests ANTI JOIN offers USING ({key}) ORDER BY ordinal LIMIT 1"
    if without := con.execute(empty).fetchone():
        who = key.removesuffix("_id")
        raise UserError(f"{candidates} has no candidates for {who} '{without[0]}': add some, or drop the {who}")


def _key(offered: dict[str, str]) -> str | None:
    """The column that says whose candidates they are; None where they are everyone's."""
    return next((name for name in ("request_id", "user_id") if name in offered), None)


def _query(con: duckdb.DuckDBPyConnection, config: DataConfig, told: dict[str, str], offered: dict[str, str]) -> str:
    sections = list(enumerate(config.history_sections))
    titles = {n: f"coalesce(any_value(titles) FILTER (section = {n}), [])" for n, _ in sections}
    one_section = len(sections) == 1
    packed = ", ".join(f"{quote(section.key)} := {titles[n]}" for n, section in sections)
    history = titles[0] if one_section else f"struct_pack({packed})"
    none = (
        "[]"
        if one_section
        else "struct_pack(" + ", ".join(f"{quote(s.key)} := []::VARCHAR[]" for _, s in sections) + ")"
    )
    has_things = one(con, "SELECT count(*) FROM duckdb_tables() WHERE table_name = 'slate_things'")[0]
    recent = ", coalesce(t.recent, []) AS recent" if has_things else ""
    things = (
        """
        LEFT JOIN (SELECT ordinal, list(text ORDER BY place) AS recent
                   FROM (SELECT ordinal, unnest(things) AS thing_index, generate_subscripts(things, 1) AS place
                         FROM slate_things) JOIN things USING (thing_index) GROUP BY ordinal) t USING (ordinal)
    """
        if has_things
        else ""
    )
    if config.keeps_items:  # item_ids as often as they were bought, as recall reads them
        recent += ", coalesce(b.bought, []) AS bought"
        things += """
            LEFT JOIN (SELECT ordinal, list(item_id ORDER BY item_index) AS bought
                       FROM (SELECT ordinal, item_index, unnest(range(n)) FROM (
                             SELECT ordinal, unnest(items) AS item_index, unnest(times) AS n FROM bought))
                       JOIN item_numbers USING (item_index)
                       GROUP BY ordinal) b USING (ordinal)
        """
    users = one(con, "SELECT count(*) FROM duckdb_tables() WHERE table_name = 'users'")[0]
    join = "LEFT JOIN users u ON u.user_id = r.user_id" if users else ""
    key = _key(offered)
    of_user = f"JOIN offers c ON c.{key} = r.{key}" if key else "CROSS JOIN offers c"
    attributes = "".join(f", {sql} AS {quote(name)}" for name, sql in told.items())
    own = "".join(f", c.{quote(name)}" for name in offered if name not in ("user_id", "request_id"))
    return f"""
        SELECT r.request_id, r.user_id, CAST(r.timestamp AS VARCHAR) AS timestamp{attributes},
               coalesce(h.history, {none}) AS history{recent}{own}
        FROM requests r JOIN given_users g ON g._row = r.ordinal {join} {of_user}
        LEFT JOIN (SELECT ordinal, {history} AS history FROM histories GROUP BY ordinal) h USING (ordinal) {things}
        ORDER BY r.ordinal
    """


def _copy(con: duckdb.DuckDBPyConnection, query: str, out: Path, partial: Path, offered: dict[str, str]) -> None:
    """Write the query's rows; of CSV a row per candidate, with histories as JSON."""
    if out.name.lower().endswith(PARQUET):
        con.execute(
            f"COPY ({query}) TO {literal(str(partial))} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 2048)"
        )
        return
    if out.name.lower().endswith(JSON_LINES):
        con.execute(f"COPY ({query}) TO {literal(str(partial))} (FORMAT json, ARRAY false)")
        return
    assert out.name.lower().endswith(CSV)
    kinds = columns_of(con, f"({query})")
    per_candidate = [name for name, kind in kinds.items() if kind.endswith("[]") and name not in LISTS]
    shown = ", ".join(
        f"unnest({quote(name)}) AS {quote(name)}"
        if name in per_candidate
        else f"CAST(to_json({quote(name)}) AS VARCHAR) AS {quote(name)}"
        if name in LISTS
        else quote(name)
        for name in kinds
    )
    con.execute(f"COPY (SELECT {shown} FROM ({query})) TO {literal(str(partial))} (FORMAT csv, HEADER)")
