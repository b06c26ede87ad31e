"""Rates and counts of what happened strictly before each request, set-wise in DuckDB, and their last state as files.

A level of a rate is what one choice of columns counts: all impressions, those of the parent's columns, those of `by`.
Of each level there is a running count per key and moment; an impression looks up the last moment before its request's.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from equipoise.common.errors import UserError
from equipoise.common.nearest import did_you_mean
from equipoise.configs.features import FeatureConfig
from equipoise.configs.rates import RateConfig
from equipoise.data.prepare.feature_table import feature_joins, feature_sql
from equipoise.data.prepare.files import columns_of, literal, quote
from equipoise.data.prepare.labels import label_sql
from equipoise.data.prepare.parts import CARRIED, Part
from equipoise.data.prepare.tables import LABELS, Tables, check_columns, one
from equipoise.data.rates import LEAST, METADATA, levels_of, read_metadata

STATE_BATCH = 100_000
DAY = 86_400_000_000
"""Microseconds."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BLOCK = 256
"""Half-lives of a block: a weight grows to 2^BLOCK within one, and what is older than two blocks counts nothing."""


def rate_columns(rates: Sequence[RateConfig]) -> list[str]:
    """The columns that rates read, each once."""
    delays = [rate.delay_column for rate in rates if rate.delay_column is not None]
    return list(dict.fromkeys([*(name for rate in rates for name in (*rate.by, *rate.labels)), *delays]))


def check_rates(tables: Tables, rates: Sequence[RateConfig]) -> None:
    """Refuse rates of columns that the raw tables lack, of labels that are not 0 or 1, or whose names are taken.

    Raises:
        UserError: names the file, the column, its first bad value and the fix.
    """
    label = tables.labels["impressions"]
    known = {name for table in tables.labels if table != "events" for name in tables.columns(table)}
    for rate in rates:
        own = [*rate.labels, *([rate.delay_column] if rate.delay_column else [])]
        check_columns(tables, "impressions", own, ", which data.rates reads")
        for name in rate.by:
            if name not in known:
                raise UserError(
                    f"neither {label} nor {tables.labels['items']} nor a table of users has a column '{name}', which "
                    f"data.rates names{did_you_mean(name, known)}: add or rename it"
                )
        for name in rate.names:
            if name in known:
                raise UserError(f"{label} has a column '{name}', which data.rates computes: rename it")
        refuse_bad_values(tables, rate)


def refuse_bad_values(tables: Tables, rate: RateConfig) -> None:
    """Refuse a label that is not 0 or 1 in a raw impression that counts, and a delay below 0.

    Raises:
        UserError: names the file, the column, the first such value and the fix.
    """
    for name in rate.labels:
        if name not in LABELS:
            _refuse_bad_label(tables, name, rate.given if name != rate.given else None)
    if rate.delay_column is not None:
        delay = f"i.{quote(rate.delay_column)}"
        query = f"SELECT {delay} FROM raw_impressions i WHERE NOT TRY_CAST({delay} AS DOUBLE) BETWEEN 0 AND 1e5 LIMIT 1"
        if row := tables.con.execute(query).fetchone():
            raise UserError(
                f"{tables.labels['impressions']} (data.tables.impressions) has {rate.delay_column} '{row[0]}', after "
                "which data.rates takes a label for known: write days, 0 to 100000, or nothing where it never is"
            )


def _refuse_bad_label(tables: Tables, name: str, given: str | None) -> None:
    number, counted = label_sql(name), f"{label_sql(given)} = 1" if given else "true"
    bad = f"{counted} AND coalesce({number} NOT IN (0, 1), true)"
    row = tables.con.execute(f"SELECT i.{quote(name)} FROM raw_impressions i WHERE {bad} LIMIT 1").fetchone()
    if row:
        value = "" if row[0] is None else row[0]
        raise UserError(
            f"{tables.labels['impressions']} (data.tables.impressions) has {name} '{value}', which data.rates "
            "counts: write 0 or 1, or name with `given` the label of whose impressions it is known"
        )


def write_rates(tables: Tables, rates: Sequence[RateConfig], folder: Path, part: Part | None = None) -> None:
    """Add the columns of rates to the table `impressions`, and write their last state to `folder`.

    Those of a part go on from the counts that the part before it left, and leave their own beside `folder`.

    Impressions of `requests` count alone, each from its own moment (and the rate's delay) on. A rate is NULL where a
    column of `by` is unknown or nothing is known at all yet, a count where a column is.

    Raises:
        UserError: no impression of the train split has an earlier one of the same key.
    """
    if not rates:
        return
    con = tables.con
    con.execute(f"""
        CREATE TABLE rate_rows AS
        SELECT i.request_id, i.item_id, r.split, epoch_us(r.timestamp) AS moment{read_columns(tables, rates)}
        FROM impressions i JOIN requests r USING (request_id){feature_joins(tables)}
    """)
    folder.mkdir()
    for rate in rates:
        carried = part.carried(rate.file) if part is not None else None
        add_rate(con, rate, carried)
        if carried is None:
            _refuse_never_repeated(tables, rate)
        write_state(con, rate, folder / rate.file, carried=carried)
        if part is not None:
            write_carried(con, rate, folder.parent / CARRIED, part, carried)
    names = dict.fromkeys(name for rate in rates for name in rate.names)
    con.execute(f"""
        CREATE TABLE rated AS
        SELECT i.*, {", ".join(f"x.{quote(name)}" for name in names)}
        FROM impressions i LEFT JOIN rate_rows x USING (request_id, item_id)
    """)
    con.execute("DROP TABLE rate_rows; DROP TABLE impressions; ALTER TABLE rated RENAME TO impressions")


def read_columns(tables: Tables, rates: Sequence[RateConfig]) -> str:
    """What rate_rows holds of impressions `i`, items `t` and users `u`: key_NAME, label_NAME and delay_NAME, in SQL."""
    keys = {name: feature_sql(tables, FeatureConfig(name=name, scale="category")) for rate in rates for name in rate.by}
    named = {f"key_{name}": sql for name, sql in keys.items()}
    named |= {f"label_{name}": label_sql(name) for rate in rates for name in rate.labels}
    delays = [rate.delay_column for rate in rates if rate.delay_column is not None]
    named |= {f"delay_{name}": f"TRY_CAST(i.{quote(name)} AS DOUBLE)" for name in delays}
    return "".join(f", {sql} AS {quote(name)}" for name, sql in named.items())


def _known(rate: RateConfig) -> str:
    """The moment in microseconds from which on a row of rate_rows counts, in SQL; NULL where its delay is unknown."""
    if isinstance(rate.delay_days, str):
        return f"moment + CAST(round({quote('delay_' + rate.delay_days)} * {DAY}) AS BIGINT)"
    return f"moment + {round(rate.delay_days * DAY)}"


def microseconds_of(moment: datetime) -> int:
    """Microseconds from 1970 to a moment (UTC)."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def moment_of(microseconds: int) -> datetime:
    """The moment (UTC) so many microseconds after 1970."""
    return EPOCH + timedelta(microseconds=microseconds)


def decay_sql(rate: RateConfig, microseconds: str) -> str:
    """What an impression of such an age counts, in SQL; the rate has a half-life."""
    return f"pow(2, -({_half_lives(rate, microseconds)}))"


def _half_lives(rate: RateConfig, microseconds: str) -> str:
    return f"({microseconds}) / {rate.half_life_days * DAY if rate.half_life_days else 1.0}::DOUBLE"


def _counted(rate: RateConfig, columns: Sequence[str], carried: Path | None = None) -> str:
    """A query over rate_rows: per key and moment `e` (in microseconds, known by then) shown `n` and positives `p`.

    `carried`: file of counts (`write_carried`) that these rows follow, which are among them.
    """
    keys = [f"{quote('key_' + name)}" for name in columns]
    known = [f"{key} IS NOT NULL" for key in keys] + ([f"{quote('label_' + rate.given)} = 1"] if rate.given else [])
    named = "".join(f"{key}, " for key in keys)
    own = f"""
        SELECT {named}{_known(rate)} AS e, count(*)::DOUBLE AS n, sum({quote("label_" + rate.of)})::DOUBLE AS p
        FROM rate_rows WHERE {" AND ".join([f"{_known(rate)} IS NOT NULL", *known])} GROUP BY ALL
    """
    if carried is None:
        return own
    before = f"""
        SELECT {named}e, shown AS n, positives AS p FROM read_parquet({literal(str(carried))})
        WHERE level = {levels_of(rate).index(list(columns))}
    """
    return f"SELECT {named}e, sum(n) AS n, sum(p) AS p FROM ({own} UNION ALL {before}) GROUP BY ALL"


def _running(rate: RateConfig, columns: Sequence[str], carried: Path | None = None) -> str:
    """A query: per key and moment `e` what was `shown` and `positives` until then, that moment's own included."""
    keys = "".join(f"{quote('key_' + name)}, " for name in columns)
    by = f"PARTITION BY {keys.rstrip(', ')}" if columns else ""
    if rate.half_life_days is None:
        sums = f"sum(n) OVER ({by} ORDER BY e) AS shown, sum(p) OVER ({by} ORDER BY e) AS positives"
        return f"SELECT {keys}e, {sums} FROM ({_counted(rate, columns, carried)})"
    # Weights grow from the start of each block on: what came before it enters by its total, decayed.
    block = round(BLOCK * rate.half_life_days * DAY)
    x = _half_lives(rate, f"e - b * {block}")
    same = "".join(f"own.{quote('key_' + name)} = last.{quote('key_' + name)} AND " for name in columns)
    within = f"(PARTITION BY {keys}b ORDER BY e)"
    own = "".join(f"own.{quote('key_' + name)}, " for name in columns)
    return f"""
        WITH weighted AS (
            SELECT *, pow(2, {x}) AS w
            FROM (SELECT *, CAST(floor(e / {block}) AS BIGINT) AS b FROM ({_counted(rate, columns, carried)}))
        ), totals AS (SELECT {keys}b, sum(n * w) AS n, sum(p * w) AS p FROM weighted GROUP BY ALL
        ), sums AS (SELECT {keys}b, e, w, sum(n * w) OVER {within} AS n, sum(p * w) OVER {within} AS p FROM weighted)
        SELECT {own}own.e, (own.n + coalesce(last.n, 0) * pow(2, -{BLOCK})) / own.w AS shown,
               (own.p + coalesce(last.p, 0) * pow(2, -{BLOCK})) / own.w AS positives
        FROM sums own LEFT JOIN totals last ON {same}own.b = last.b + 1
    """


def add_rate(con: duckdb.DuckDBPyConnection, rate: RateConfig, carried: Path | None = None) -> None:
    """Add the columns of a rate to rate_rows (moment in microseconds, key_NAME of `by`, label_NAME of its labels).

    `carried`: file of counts that these rows follow.
    """
    levels = levels_of(rate)
    names, joins, columns = [f"level{number}" for number in range(len(levels))], "", ""
    smoothed = ""
    for name, keys in zip(names, levels, strict=True):
        con.execute(f"CREATE TEMP TABLE {name} AS {_running(rate, keys, carried)}")
        same = "".join(f"r.{quote('key_' + key)} = {name}.{quote('key_' + key)} AND " for key in keys)
        joins += f" ASOF LEFT JOIN {name} ON {same}r.moment > {name}.e"
        decay = f" * {decay_sql(rate, f'r.moment - {name}.e')}" if rate.half_life_days else ""
        shown, positives = (f"coalesce({name}.{part}{decay}, 0)" for part in ("shown", "positives"))
        if not keys:
            smoothed = f"({positives} + 0.5) / ({shown} + 1)"
        else:
            smoothed = f"({positives} + {rate.strength} * ({smoothed})) / ({shown} + {rate.strength})"
        columns = shown
    smoothed = f"greatest({LEAST}, least(1 - {LEAST}, {smoothed}))"
    told = " AND ".join(f"r.{quote('key_' + key)} IS NOT NULL" for key in rate.by)
    has_shown = rate.shown in columns_of(con, "rate_rows")  # of another label's rate
    count = "" if has_shown else f", CASE WHEN {told} THEN {columns} END AS {quote(rate.shown)}"
    con.execute(f"""
        CREATE TABLE with_rate AS
        SELECT r.*, CASE WHEN {told} AND {names[0]}.e IS NOT NULL THEN {smoothed} END AS {quote(rate.rate)}{count}
        FROM rate_rows r{joins}
    """)
    con.execute("DROP TABLE rate_rows; ALTER TABLE with_rate RENAME TO rate_rows")
    for name in names:
        con.execute(f"DROP TABLE {name}")


def _refuse_never_repeated(tables: Tables, rate: RateConfig) -> None:
    if not one(tables.con, f"SELECT max({quote(rate.shown)}) FROM rate_rows WHERE split = 0")[0]:
        raise UserError(
            f"{tables.labels['impressions']} (data.tables.impressions): no impression of the train split has an "
            f"earlier one with the same {', '.join(rate.by)}, by which data.rates counts {rate.of}: drop that rate"
        )


def state_sql(rate: RateConfig, moment: int, carried: Path | None = None) -> str:
    """A query over rate_rows: the state of a rate at a moment (microseconds, no earlier than any label is known).

    `carried`: file of counts that these rows follow.
    """
    parts = []
    for number, columns in enumerate(levels_of(rate)):
        keys = [
            f"{quote('key_' + name) if name in columns else 'NULL::VARCHAR'} AS {quote('key_' + name)}"
            for name in rate.by
        ]
        weight = f" * {decay_sql(rate, f'{moment} - e')}" if rate.half_life_days else ""
        parts.append(f"""
            SELECT {number}::TINYINT AS level, {", ".join(keys)}, sum(n{weight}) AS shown, sum(p{weight}) AS positives
            FROM ({_counted(rate, columns, carried)}) GROUP BY ALL
        """)
    return " UNION ALL ".join(parts)


def write_carried(
    con: duckdb.DuckDBPyConnection, rate: RateConfig, folder: Path, part: Part, carried: Path | None
) -> None:
    """Write the counts that the next part goes on from: those known by its first moment in one row per key.

    Labels that are known later (`delay_days`) keep their moments, so that no request counts them too early.

    Args:
        con: with rate_rows.
        rate: that is counted.
        folder: of the file.
        part: that ends.
        carried: the same file of the part before; None of the first.
    """
    folder.mkdir(exist_ok=True)
    last = microseconds_of(part.until.replace(tzinfo=UTC)) - 1
    selected = []
    for number, columns in enumerate(levels_of(rate)):
        keys = [
            f"{quote('key_' + name) if name in columns else 'NULL::VARCHAR'} AS {quote('key_' + name)}"
            for name in rate.by
        ]
        decay = decay_sql(rate, f"{last} - e") if rate.half_life_days else "1"
        weight = f"CASE WHEN e <= {last} THEN {decay} ELSE 1 END"
        selected.append(f"""
            SELECT {number}::TINYINT AS level, {", ".join(keys)}, greatest(e, {last}) AS e,
                   sum(n * {weight}) AS shown, sum(p * {weight}) AS positives
            FROM ({_counted(rate, columns, carried)}) GROUP BY ALL
        """)
    keys = [quote("key_" + name) for name in rate.by]
    query = f"SELECT * FROM ({' UNION ALL '.join(selected)}) ORDER BY level, {', '.join(keys)}, e"
    con.execute(f"COPY ({query}) TO {literal(str(folder / rate.file))} (FORMAT parquet, COMPRESSION zstd)")


def write_state(
    con: duckdb.DuckDBPyConnection,
    rate: RateConfig,
    path: Path,
    before: Path | None = None,
    carried: Path | None = None,
) -> None:
    """Write the state of a rate after rate_rows, ordered by key.

    Args:
        con: with rate_rows.
        rate: that is counted.
        path: of the file.
        before: the state that these rows follow, where it is all that is left of earlier ones.
        carried: the counts that they follow, where these are there.
    """
    keys = ", ".join(quote("key_" + name) for name in rate.by)
    last, moment = one(con.cursor(), f"SELECT max(moment), max({_known(rate)}) FROM rate_rows")
    reached = microseconds_of(read_metadata(before)[1]) if before is not None else last
    if carried is not None:
        reached = max(reached, one(con.cursor(), f"SELECT max(e) FROM read_parquet({literal(str(carried))})")[0] or 0)
    moment = max(reached, moment or last)
    query = state_sql(rate, moment, carried)
    if before is not None:
        weight = f" * {decay_sql(rate, str(moment - reached))}" if rate.half_life_days else ""
        old = f"level, {keys}, shown{weight} AS shown, positives{weight} AS positives"
        query = f"""
            SELECT level, {keys}, sum(shown) AS shown, sum(positives) AS positives
            FROM (SELECT {old} FROM read_parquet({literal(str(before))}) UNION ALL {query}) GROUP BY ALL
        """
    record = {"rate": rate.model_dump(mode="json"), "moment": moment_of(moment), "last": moment_of(last)}
    reader = con.cursor().sql(f"SELECT * FROM ({query}) ORDER BY level, {keys}").to_arrow_reader(STATE_BATCH)
    schema = reader.schema.with_metadata({METADATA: json.dumps(record, default=datetime.isoformat)})
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch.replace_schema_metadata(schema.metadata))
