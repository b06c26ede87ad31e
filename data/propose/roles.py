"""Which of the given tables is which, and which columns are ours: by names in many languages, then by values."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import duckdb

from equipoise.common.errors import UserError
from equipoise.data.prepare.files import quote
from equipoise.data.prepare.formats import format_sql
from equipoise.data.propose.look import Column, Look
from equipoise.data.propose.words import plain_name, rank_of

ROLES = ("impressions", "items", "users", "events")
CONTAINED = 0.8
"""Share of a column's values among the keys of another table from which on it points there."""
KEY_NAMES = ("id", "nr", "no", "num", "key", "code", "nummer", "numero")


@dataclass
class Role:
    """A table with a role: our names → its columns; several where they are joined."""

    look: Look
    columns: dict[str, str | list[str]] = field(default_factory=dict)

    def column(self, ours: str) -> Column | None:
        """The single column that is `ours`."""
        theirs = self.columns.get(ours)
        return self.look.columns[theirs] if isinstance(theirs, str) else None

    @property
    def others(self) -> Iterator[Column]:
        """Columns that are none of ours."""
        taken = {theirs for theirs in self.columns.values() if isinstance(theirs, str)}
        yield from (column for name, column in self.look.columns.items() if name not in taken)


def assign_roles(con: duckdb.DuckDBPyConnection, looks: Sequence[Look]) -> dict[str, Role]:
    """The tables by their roles; impressions and items are always there.

    Raises:
        UserError: no table can be the impressions or the items.
    """
    roles: dict[str, Role] = {}
    shown = [one for one in looks if _label_columns(one) and _moment(one)]
    if not shown:
        raise UserError(
            "no table has both moments and a column of yes and no, so none can be the impressions: name a table with "
            "one row per shown item, whether it was clicked and when"
        )
    roles["impressions"] = Role(max(shown, key=lambda one: len(_named(one)) * 10**9 + _rows(one)))
    rest = [one for one in looks if one is not roles["impressions"].look]
    keyed = {id(one): key for one in rest if (key := _key(one)) is not None}
    people = [one for one in rest if id(one) in keyed and _best(one, "user_id") == keyed[id(one)]]
    goods = [one for one in rest if id(one) in keyed and one not in people and _text_column(one, keyed[id(one)])]
    goods.sort(key=lambda one: (_best(one, "item_id") is None, _best(one, "title") is None))
    if not goods:
        raise UserError("no table has a row per item with its own id and a text: name a table of the items with titles")
    roles["items"] = Role(goods[0], {"item_id": keyed[id(goods[0])]})
    items = roles["items"]
    title = _best(items.look, "title") or _text_column(items.look, keyed[id(goods[0])])
    assert title is not None
    items.columns["title"] = title
    _optional(items, ("category", "brand", "provider", "price"))
    users = people or [*goods[1:], *(one for one in rest if id(one) in keyed and one not in goods)]
    if users:
        roles["users"] = Role(users[0], {"user_id": keyed[id(users[0])]})
    for one in rest:
        if one not in (items.look, roles["users"].look if "users" in roles else None) and _moment(one):
            roles["events"] = Role(one)
            break
    for name in ("impressions", "events"):
        if name in roles:
            _fill_facts(con, roles, name)
    if "events" in roles and not {"user_id", "item_id", "timestamp"} <= roles["events"].columns.keys():
        del roles["events"]
    _fill_impressions(con, roles["impressions"])
    return roles


def _rows(one: Look) -> int:
    return max((column.rows for column in one.columns.values()), default=0)


def _named(one: Look) -> list[str]:
    return [ours for ours in ("click", "conversion", "request_id") if _best(one, ours)]


def _best(one: Look, ours: str) -> str | None:
    """The column with the likeliest name for one of ours."""
    ranked = [(rank, name) for name in one.columns if (rank := rank_of(name, ours)) is not None]
    return min(ranked)[1] if ranked else None


def _label_columns(one: Look) -> list[str]:
    return [name for name, column in one.columns.items() if column.is_yes_no and column.distinct]


def _moment(one: Look) -> str | None:
    named = _best(one, "timestamp")
    if named and one.columns[named].moments:
        return named
    return next((name for name, column in one.columns.items() if column.moments and not column.is_key), None)


def _key(one: Look) -> str | None:
    """The column by which rows are told apart."""
    keys = [name for name, column in one.columns.items() if column.is_key and not column.moments]
    for ours in ("item_id", "user_id"):
        if (named := _best(one, ours)) in keys:
            return named
    return next(
        (name for name in keys if plain_name(name) in KEY_NAMES or plain_name(name).endswith("_id")),
        next(iter(keys), None),
    )


def _text_column(one: Look, key: str) -> str | None:
    """The column with the longest texts."""
    texts = [c for c in one.columns.values() if c.name != key and not c.numbers and not c.moments and c.length >= 6]
    return max(texts, key=lambda column: (column.distinct > 1, column.length)).name if texts else None


def _optional(role: Role, names: Sequence[str]) -> None:
    for ours in names:
        named = _best(role.look, ours)
        if named is not None and named not in role.columns.values() and role.look.columns[named].filled:
            role.columns[ours] = named


def _fill_facts(con: duckdb.DuckDBPyConnection, roles: dict[str, Role], name: str) -> None:
    """Moments, and the columns that point to items and users."""
    role = roles[name]
    moment = _moment(role.look)
    assert moment is not None
    role.columns["timestamp"] = moment
    for ours, table in (("item_id", "items"), ("user_id", "users")):
        named = _best(role.look, ours)
        free = [c for c in role.look.columns if c not in role.columns.values()]
        if table in roles:
            key = roles[table].columns[ours]
            assert isinstance(key, str)
            shares = {c: _share_in(con, role.look, c, roles[table].look, key) for c in free}
            best = max(free, key=lambda c: (shares[c] >= CONTAINED, c == named, shares[c]), default=None)
            if best is not None and (shares[best] >= CONTAINED or best == named):
                named = best
        if named is not None:
            role.columns[ours] = named
    if name == "events":
        _optional(role, ("kind",))


def _share_in(con: duckdb.DuckDBPyConnection, one: Look, column: str, other: Look, key: str) -> float:
    row = con.execute(f"""
        SELECT avg(CAST(x IN (SELECT {quote(key)} FROM {other.relation}) AS DOUBLE))
        FROM (SELECT DISTINCT {quote(column)} AS x FROM {one.relation} WHERE {quote(column)} <> '')
    """).fetchone()
    return float(row[0] or 0) if row else 0.0


def _fill_impressions(con: duckdb.DuckDBPyConnection, role: Role) -> None:
    for ours, table in (("item_id", "items"), ("user_id", "shoppers")):
        if ours not in role.columns:
            raise UserError(
                f"{role.look.label}: no column points to {table}: call one {ours}, or write data.tables by hand"
            )
    labels = [name for name in _label_columns(role.look) if name not in role.columns.values()]
    for ours in ("click", "conversion"):
        named = _best(role.look, ours)
        if named in labels:
            role.columns[ours] = named
            labels.remove(named)
    if "click" not in role.columns and "conversion" not in role.columns:
        rates = {name: _rate(con, role.look, name) for name in labels}
        ordered = sorted(rates, key=lambda name: -rates[name])[:2]
        role.columns |= dict(zip(("click", "conversion"), ordered, strict=False))
    _optional(role, ("position", "price"))
    role.columns["request_id"] = _requests(con, role)


def _rate(con: duckdb.DuckDBPyConnection, one: Look, name: str) -> float:
    yes = format_sql(quote(name), "VARCHAR", "yes_no")
    row = con.execute(f"SELECT avg(CAST({yes} AS DOUBLE)) FROM {one.relation}").fetchone()
    return float(row[0] or 0) if row else 0.0


def _requests(con: duckdb.DuckDBPyConnection, role: Role) -> str | list[str]:
    """The columns that tell requests apart: all rows of one are of one user and moment."""
    user, moment, item = (role.columns[name] for name in ("user_id", "timestamp", "item_id"))
    assert isinstance(user, str) and isinstance(moment, str) and isinstance(item, str)
    named = _best(role.look, "request_id")
    others = [c.name for c in role.others if c.name != named and 1 < c.distinct < c.rows and c.filled == c.rows]
    tried: list[list[str]] = [[named]] if named and named not in (user, moment, item) else []
    tried += [[name] for name in sorted(others, key=lambda name: -role.look.columns[name].distinct)]
    tried += [[named, moment]] if named and named not in (user, moment, item) else []
    for names in [*tried, [user, moment]]:
        keys = ", ".join(map(quote, names))
        row = con.execute(f"""
            SELECT coalesce(max(users), 0), coalesce(max(moments), 0), coalesce(max(repeated), 0), avg(size)
            FROM (SELECT count(DISTINCT {quote(user)}) AS users, count(DISTINCT {quote(moment)}) AS moments,
                         count(*) - count(DISTINCT {quote(item)}) AS repeated, count(*) AS size
                  FROM {role.look.relation} GROUP BY {keys})
        """).fetchone()
        assert row is not None
        users, moments, repeated, size = row
        if users <= 1 and moments <= 1 and repeated == 0 and (size > 1.2 or names == [named]):
            return names[0] if len(names) == 1 else names
    raise UserError(
        f"{role.look.label}: no column tells requests apart (one user, one moment, every item once): add a request_id"
    )
