"""Collects impressions into requests: one user and one moment each, with their split and their prefix fields."""

from equipoise.common.errors import UserError
from equipoise.configs.schema import DataConfig
from equipoise.data.prepare.files import columns_of, quote
from equipoise.data.prepare.splits import write_splits
from equipoise.data.prepare.tables import Tables, one
from equipoise.data.prompts import piece_fields
from equipoise.data.values import text_sql


def write_requests(tables: Tables, config: DataConfig, splits: bool = True) -> None:
    """Create requests (ordinal, split, request_id, user_id, timestamp) and facts (ordinal, prefix and user fields).

    Ordinals count all requests by (split, timestamp, request_id), so that a split is a range of them.
    `splits`: as the config has them; else all are of the first one.
    Raises UserError where a request has several users, timestamps, splits or values of a prefix field.
    """
    _refuse_mixed(tables, ["user_id", "timestamp"], "give every request one")
    con = tables.con
    con.execute("""
        CREATE TABLE requests AS
        SELECT request_id, any_value(user_id) AS user_id, any_value(timestamp) AS timestamp,
               CAST(NULL AS TINYINT) AS split
        FROM impressions GROUP BY request_id
    """)
    if splits:
        write_splits(tables, config.split)
    else:
        con.execute("UPDATE requests SET split = 0")
    con.execute("""
        CREATE TABLE ordered AS
        SELECT CAST(row_number() OVER (ORDER BY split, timestamp, request_id) - 1 AS BIGINT) AS ordinal, * FROM requests
    """)
    con.execute("DROP TABLE requests")
    con.execute("ALTER TABLE ordered RENAME TO requests")
    tables.users_seen = one(con, "SELECT count(DISTINCT user_id) FROM requests")[0]
    if tables.has("users"):
        unknown_users = one(con, "SELECT count(DISTINCT user_id) FROM requests ANTI JOIN users USING (user_id)")[0]
        if unknown_users:
            tables.notes.append(f"{unknown_users} users of impressions are not in users: their attributes are unknown.")
    if has_events(tables):
        without = one(con, "SELECT count(DISTINCT user_id) FROM requests ANTI JOIN events USING (user_id)")[0]
        check = ": check that both write user_id the same way" if without == tables.users_seen else ""
        if without:
            tables.notes.append(f"{without} of {tables.users_seen} users of impressions have no events{check}.")
    _write_facts(tables, config)


def has_events(tables: Tables) -> bool:
    """Whether the events are read."""
    return one(tables.con, "SELECT count(*) FROM duckdb_tables() WHERE table_name = 'events'")[0] > 0


def _write_facts(tables: Tables, config: DataConfig) -> None:
    """Create facts (ordinal, prefix_NAME …, user_NAME …): a prefix field of the impressions goes before the users'."""
    names = piece_fields(config.prompt.prefix)
    own = [name for name in names if name in columns_of(tables.con, "impressions")]
    _refuse_mixed(
        tables,
        [name for name in own if name not in ("request_id", "user_id", "timestamp")],
        "move it to data.prompt.context",
    )
    first = "".join(f", any_value({quote(name)}) AS {quote('prefix_' + name)}" for name in own)
    user_fields = "".join(f", u.{quote(name)} AS {quote('prefix_' + name)}" for name in names if name not in own)
    kinds = columns_of(tables.con, "users")
    groups = "".join(
        f", {text_sql(f'u.{quote(name)}', kinds[name])} AS {quote('user_' + name)}" for name in config.user_groups
    )
    tables.con.execute(f"""
        CREATE TABLE facts AS
        SELECT r.ordinal, f.* EXCLUDE (request_id){user_fields}{groups}
        FROM requests r LEFT JOIN users u ON u.user_id = r.user_id
        JOIN (SELECT request_id{first} FROM impressions GROUP BY request_id) f ON f.request_id = r.request_id
    """)


def _refuse_mixed(tables: Tables, names: list[str], way_out: str) -> None:
    """Refuse a request in which one of these columns has several values."""
    for name in names:
        column = quote(name)
        mixed = tables.con.execute(
            f"SELECT request_id FROM impressions GROUP BY 1 HAVING min({column}) <> max({column}) ORDER BY 1 LIMIT 1"
        ).fetchone()
        if mixed:
            raise UserError(
                f"{tables.labels['impressions']} (data.tables.impressions) has several values of {name} "
                f"in request '{mixed[0]}': {way_out}"
            )
