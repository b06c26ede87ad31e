"""Splits requests in time: by a column, by two dates, or by fractions of the latest requests.

Users may be held out of training: chosen by a hash of their user_id, so that the same ones are, on any machine. Their
requests of the train and valid splits are left out; those of the test split stay, as requests of anonymous users.
"""

from datetime import UTC, datetime

from equipoise.common.errors import UserError
from equipoise.configs.schema import SplitConfig
from equipoise.data.manifest import SPLITS
from equipoise.data.prepare.files import literal, quote
from equipoise.data.prepare.tables import Tables, one


def chosen(value: str, fraction: float) -> str:
    """The SQL condition that a text is among a fraction of all texts, by a hash; false where there is none."""
    # The first eight hexadecimal digits of the md5, as a fraction of all values that they can take.
    return f"coalesce(CAST('0x' || substr(md5({value}), 1, 8) AS UBIGINT) < {fraction} * {16**8}, false)"


def split_column(tables: Tables, config: SplitConfig) -> str | None:
    """The column of impressions that holds the split, if it is split that way.

    A source that brings its own split is followed unless the config asks for another one.
    """
    who = {"holdout_users", "holdout_items"}  # says nothing of when
    configured = config.model_dump(exclude=who) != SplitConfig().model_dump(exclude=who)
    return config.column if configured else tables.split_column


def write_splits(tables: Tables, config: SplitConfig) -> None:
    """Fill requests.split with 0 (train), 1 (valid), 2 (test). Raises UserError for an empty split or a bad value."""
    column = split_column(tables, config)
    if column:
        _by_column(tables, column)
    elif config.valid_from and config.test_from:
        _by_dates(tables, _utc(config.valid_from), _utc(config.test_from))
    else:
        _by_dates(tables, *_dates_of_fractions(tables, config))
    drop_held_out(tables, config.holdout_users)
    drop_held_out_items(tables)
    present = {row[0] for row in tables.con.execute("SELECT DISTINCT split FROM requests").fetchall()}
    for number, name in enumerate(SPLITS):
        if number not in present:
            raise UserError(f"{tables.labels['impressions']} gives an empty {name} split: {_way_out(config, column)}")


def _way_out(config: SplitConfig, column: str | None) -> str:
    if config.holdout_users > 0.5:
        return "lower data.split.holdout_users"
    if config.holdout_items and config.holdout_items.fraction > 0.5:
        return "lower data.split.holdout_items.fraction"
    if column:
        return f"column '{column}' must hold train, valid and test"
    if config.valid_from:
        return "move data.split.valid_from and data.split.test_from into the time of the impressions"
    return "raise data.split.valid_fraction and data.split.test_fraction, or set valid_from and test_from"


def _by_column(tables: Tables, column: str) -> None:
    """Read the split from a column of impressions, which must be one of three words and constant in a request."""
    name = quote(column)
    words = ", ".join(literal(split) for split in SPLITS)
    bad = tables.con.execute(
        f"SELECT {name} FROM impressions WHERE coalesce(CAST({name} AS VARCHAR) NOT IN ({words}), true) LIMIT 1"
    ).fetchone()
    label = tables.labels["impressions"]
    if bad:
        raise UserError(f"{label} has {column} '{bad[0]}' in its split column: write train, valid or test")
    mixed = tables.con.execute(
        f"SELECT request_id FROM impressions GROUP BY 1 HAVING min({name}) <> max({name}) ORDER BY 1 LIMIT 1"
    ).fetchone()
    if mixed:
        raise UserError(f"{label} has several values of {column} in request '{mixed[0]}': give a request one split")
    numbers = " ".join(f"WHEN {literal(split)} THEN {number}" for number, split in enumerate(SPLITS))
    tables.con.execute(f"""
        UPDATE requests SET split = CASE s.split {numbers} END
        FROM (SELECT request_id, any_value(CAST({name} AS VARCHAR)) AS split FROM impressions GROUP BY 1) s
        WHERE s.request_id = requests.request_id
    """)


def _by_dates(tables: Tables, valid_from: datetime, test_from: datetime) -> None:
    tables.con.execute(
        "UPDATE requests SET split = CASE WHEN timestamp >= $test THEN 2 WHEN timestamp >= $valid THEN 1 ELSE 0 END",
        {"test": test_from, "valid": valid_from},
    )


def _dates_of_fractions(tables: Tables, config: SplitConfig) -> tuple[datetime, datetime]:
    """The two dates that cut off the latest requests; requests of one moment always stay together."""
    total = one(tables.con, "SELECT count(*) FROM requests")[0]
    test_from = _start_of_latest(tables, total, config.test_fraction, "true")
    valid_from = _start_of_latest(tables, total, config.valid_fraction, f"timestamp < '{test_from.isoformat()}'")
    return valid_from or test_from, test_from


def _start_of_latest(tables: Tables, total: int, fraction: float, where: str) -> datetime:
    """The moment from which on lie the latest `fraction` of all requests, counted among those that meet `where`."""
    count = max(round(total * fraction), 1)
    latest = f"SELECT timestamp FROM requests WHERE {where} ORDER BY timestamp DESC LIMIT {count}"
    return one(tables.con, f"SELECT min(timestamp) FROM ({latest})")[0]


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def drop_held_out(tables: Tables, fraction: float) -> None:
    """Leave the held-out users' requests of the train and valid splits out of `requests`, and count them."""
    if not fraction:
        return
    con = tables.con
    is_held_out = chosen("user_id", fraction)
    left_out = one(con, f"SELECT count(*) FROM requests WHERE split < 2 AND {is_held_out}")[0]
    users = one(con, f"SELECT count(DISTINCT user_id) FROM requests WHERE {is_held_out}")[0]
    con.execute(f"DELETE FROM requests WHERE split < 2 AND {is_held_out}")
    tables.drop("train and valid requests of held-out users", left_out)
    tables.notes.append(f"{users} users are held out (data.split.holdout_users): only their test requests are kept.")


def drop_held_out_items(tables: Tables) -> None:
    """Leave impressions of held-out items out of the requests of train and valid, and requests that have no other.

    Raises:
        UserError: no impression, or no test impression of a held-out item, is left.
    """
    con = tables.con
    items = one(con, "SELECT count(*) FROM held_out_items")[0]
    if not items:
        return
    before = one(con, "SELECT count(*) FROM impressions")[0]
    con.execute("""
        DELETE FROM impressions
        WHERE item_id IN (FROM held_out_items) AND request_id IN (SELECT request_id FROM requests WHERE split < 2)
    """)
    con.execute("DELETE FROM requests WHERE request_id NOT IN (SELECT request_id FROM impressions)")
    after = one(con, "SELECT count(*) FROM impressions")[0]
    tables.drop("train and valid impressions of held-out items", before - after)
    left = one(con, "SELECT count(*) FROM impressions WHERE item_id IN (FROM held_out_items)")[0]
    if not left:
        raise UserError("data.split.holdout_items leaves no test impression of a held-out item: raise its fraction")
    tables.notes.append(
        f"{items} items are held out (data.split.holdout_items): only their {left} test impressions are kept."
    )
