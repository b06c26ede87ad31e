"""What a run on the given tables may look like: mapping, prompt, features, groups and objectives, as settings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import duckdb

from equipoise.configs.tables import NUMBER_FORMATS
from equipoise.data.prepare.files import quote
from equipoise.data.prepare.formats import format_sql
from equipoise.data.propose.look import Column
from equipoise.data.propose.roles import Role
from equipoise.data.propose.words import plain_name

Ask = Callable[[str, str, Mapping[str, str]], str]
"""From a setting, a question and choices (format → what it means) to the chosen format."""
PLAIN_LABELS = {"0", "1", "true", "false"}
LONGEST = 80
"""Mean length of texts that a prompt tells."""
MOST_PIECES = 6
FEWEST = 10
"""Users who clicked, or bought, below whom a simple model of it has nothing to learn from."""
MOST_GROUPS = 12


@dataclass
class Proposal:
    """Settings of `data` and `objectives`, with a comment on some of them by their keys.

    Attributes:
        compares: whether items are compared with what shoppers took before.
    """

    tables: dict[str, dict[str, Any]]
    prompt: dict[str, list[str]]
    features: list[dict[str, Any]]
    fields: list[str]
    user_groups: list[str]
    objectives: dict[str, dict[str, Any]]
    requests: int
    rates: list[dict[str, str]] = field(default_factory=list)
    compares: bool = False
    comments: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def propose(con: duckdb.DuckDBPyConnection, roles: dict[str, Role], ask: Ask, given: Mapping[str, str]) -> Proposal:
    """A run on these tables.

    Args:
        con: of the looks.
        roles: the tables.
        ask: what is unclear, such as which number "2.972" is.
        given: formats that the user has said, by TABLE.COLUMN (our name).
    """
    tables = {}
    usual = _usual_numbers(roles)
    for name, role in roles.items():
        tables[name] = _table(name, role, ask, given, usual)
    impressions, items = roles["impressions"], roles["items"]
    proposal = Proposal(tables, {"prefix": [], "item": ["{title}"], "context": []}, [], [], [], {"ctr": {}}, 0)
    row = con.execute(
        f"SELECT count(*) FROM (SELECT DISTINCT {_key(impressions)} FROM {impressions.look.relation})"
    ).fetchone()
    proposal.requests = row[0] if row else 0
    _about_items(items, proposal)
    if "users" in roles:
        _about_users(roles["users"], proposal)
    _about_impressions(con, impressions, proposal, tables["impressions"])
    if {"click", "conversion"} <= impressions.columns.keys():
        proposal.objectives["cvr"] = {}
    _about_priors(con, roles, proposal)
    return proposal


def _about_priors(con: duckdb.DuckDBPyConnection, roles: dict[str, Role], proposal: Proposal) -> None:
    """Let clicks and purchases begin as what a shop would use instead, on columns that every log gives."""
    labels = [label for label in ("click", "conversion") if label in roles["impressions"].columns]
    proposal.rates = [{"of": label, "by": by} for label in labels for by in ("item_id", "user_id")]
    proposal.compares = "events" in roles
    fitted = "blend" if find_spec("lightgbm") else "linear"
    for name, label in zip(("ctr", "cvr"), labels, strict=False):
        users = _users_with(con, roles["impressions"], labels[: labels.index(label) + 1])
        if users >= FEWEST:
            proposal.objectives[name]["prior"] = fitted
        else:
            proposal.notes.append(f"{name} begins without a prior: fewer than {FEWEST} users have a {label}")
    if fitted == "linear":
        proposal.notes.append(
            "priors are logistic regressions: with LightGBM (pip install -c constraints.txt 'equipoise[trees]') write "
            "`prior: blend`, which ranks better"
        )


def _key(role: Role) -> str:
    names = role.columns["request_id"]
    return ", ".join(map(quote, [names] if isinstance(names, str) else names))


def _usual_numbers(roles: dict[str, Role]) -> str | None:
    """How the tables' numbers are written where columns leave no doubt; None where none or several do."""
    sure = {c.numbers[0] for role in roles.values() for c in role.look.columns.values() if len(c.numbers) == 1}
    sure -= {"plain"}
    return sure.pop() if len(sure) == 1 else None


def _table(name: str, role: Role, ask: Ask, given: Mapping[str, str], usual: str | None) -> dict[str, Any]:
    ours_of = {theirs: ours for ours, theirs in role.columns.items() if isinstance(theirs, str)}
    columns = {ours: theirs for ours, theirs in role.columns.items() if ours != theirs}
    formats: dict[str, str] = {}
    for theirs, column in role.look.columns.items():
        ours = ours_of.get(theirs, theirs)
        said = given.get(f"{name}.{ours}") or given.get(f"{name}.{theirs}")
        form = said or _format(f"{name}.{ours}", ours, column, ask, usual)
        if form and (form != "plain" or len(column.numbers) > 1):  # an answer is kept, for prepare asks too
            formats[ours] = form
    encoding = {} if role.look.file.encoding == "utf-8" else {"encoding": role.look.file.encoding}
    table = {"path": role.look.file.path, "columns": columns, "formats": formats, **encoding}
    return {key: value for key, value in table.items() if value}


def _format(setting: str, ours: str, column: Column, ask: Ask, usual: str | None) -> str | None:
    """How a column is written, None where it is plain."""
    if ours in ("request_id", "user_id", "item_id", "title"):
        return None
    if column.is_yes_no:
        return None if {v.lower() for v in column.values} <= PLAIN_LABELS else "yes_no"
    if ours == "timestamp":
        if len(column.moments) > 1:
            example = column.values[0]
            choices = {form: f"{example} as {form}" for form in column.moments}
            return ask(setting, f"how is the moment '{example}' written?", choices) or None
        return (column.moments or [""])[0] or None
    if column.moments or not column.numbers or column.kind != "VARCHAR":
        return None
    if usual in column.numbers:
        return usual
    if len(column.numbers) > 1:
        value = next((v for v in column.values if _differs(v, column.numbers)), column.values[0])
        other = next((v for v in column.values if v.isdigit()), None)
        beside = f" next to '{other}'" if other else ""
        choices = {form: _reading(value, form) for form in column.numbers}
        return ask(setting, f"which number is '{value}'{beside}?", choices)
    return column.numbers[0]


def _reading(value: str, form: str) -> str:
    with duckdb.connect() as con:
        row = con.execute(f"SELECT {format_sql('x', 'VARCHAR', form)} FROM (SELECT ? AS x)", [value]).fetchone()
    return str(row[0]) if row else ""


def _differs(value: str, forms: Sequence[str]) -> bool:
    signs = {sign for form in forms for sign in NUMBER_FORMATS[form] if sign}
    return any(sign in value for sign in signs)


def _is_number(column: Column) -> bool:
    return bool(column.numbers) and not column.is_yes_no and not column.moments


def _is_text(column: Column) -> bool:
    plain = not column.numbers and not column.moments and not column.is_yes_no
    return plain and 0 < column.length <= LONGEST and column.distinct > 1 and not _is_link(column)


def _is_link(column: Column) -> bool:
    return any(value.startswith(("http://", "https://", "/")) for value in column.values[:5])


def _about_items(role: Role, proposal: Proposal) -> None:
    for ours in ("category", "brand", "provider"):
        if (column := role.column(ours)) is not None and column.distinct > 1:
            proposal.prompt["item"].append(f"{{{ours}}}")
    for column in role.others:
        if _is_text(column) and not column.is_key and len(proposal.prompt["item"]) < MOST_PIECES:
            proposal.prompt["item"].append(f"{_words(column.name)} {{{column.name}}}")
    price = role.column("price")
    if price is not None and _is_number(price):
        proposal.features.append({"name": "price", "scale": "log1p"})
    category, brand = role.column("category"), role.column("brand")
    if category is not None and category.distinct > 1:
        proposal.objectives["diversity"] = {"attributes": ["category"]}
        proposal.features.append({"name": "category", "scale": "category"})
    provider = "provider" if role.column("provider") is not None else "brand" if brand is not None else None
    if provider is not None and (role.column(provider) or Column("", "", 0, 0, 0, [])).distinct > 1:
        proposal.objectives["fairness"] = {"attribute": provider}


def _words(name: str) -> str:
    return plain_name(name).replace("_", " ")


def _about_users(role: Role, proposal: Proposal) -> None:
    for column in role.others:
        if column.moments or column.is_key or column.distinct < 2 or column.length > LONGEST or _is_link(column):
            continue
        if len(proposal.prompt["prefix"]) < MOST_PIECES:
            proposal.prompt["prefix"].append(f"{_words(column.name)} {{{column.name}}}")
        if column.distinct <= MOST_GROUPS and len(proposal.user_groups) < 2:
            proposal.user_groups.append(column.name)


def _about_impressions(
    con: duckdb.DuckDBPyConnection, role: Role, proposal: Proposal, table: Mapping[str, Any]
) -> None:
    columns = [*role.others, *([price] if (price := role.column("price")) is not None else [])]
    ours_of = {theirs: ours for ours, theirs in role.columns.items() if isinstance(theirs, str)}
    joined = role.columns["request_id"]
    for column in columns:
        name = ours_of.get(column.name, column.name)
        if column.distinct < 2 or column.moments or column.name in joined or column.is_yes_no or _is_link(column):
            continue
        if _known_after(con, role, column.name):
            proposal.notes.append(f"{name} of impressions is left out: it is empty or 0 wherever nothing was clicked")
            continue
        same = _same_in_requests(con, role, column.name)
        if _is_number(column):
            proposal.fields.append(name)
            taken = any(feature["name"] == name for feature in proposal.features)
            low = _least(con, role, column.name, table.get("formats", {}).get(name, "plain"))
            if not taken:
                proposal.features.append({"name": name, "scale": "log1p" if low >= 0 else "none"})
            if name == "price":
                proposal.prompt["context"].append("price {price|money}")
        elif _is_text(column) and column.distinct <= 1000:
            place = "prefix" if same else "context"
            if len(proposal.prompt[place]) < MOST_PIECES:
                proposal.prompt[place].append(f"{_words(name)} {{{name}}}")


def _users_with(con: duckdb.DuckDBPyConnection, role: Role, labels: Sequence[str]) -> int:
    """How many users have an impression with all of some labels."""
    said = " AND ".join(format_sql(quote(str(role.columns[label])), "VARCHAR", "yes_no") for label in labels)
    user = quote(str(role.columns["user_id"]))
    row = con.execute(f"SELECT count(DISTINCT {user}) FILTER ({said}) FROM {role.look.relation}").fetchone()
    return row[0] if row else 0


def _known_after(con: duckdb.DuckDBPyConnection, role: Role, name: str) -> bool:
    """Whether a column says something of clicked items alone, as what is known after the click does."""
    click = role.columns.get("click") or role.columns["conversion"]
    assert isinstance(click, str)
    no = f"NOT coalesce({format_sql(quote(click), 'VARCHAR', 'yes_no')}, false)"
    empty = f"coalesce({quote(name)}, '') IN ('', '0', '0.0', '0,0', '0,00', '0.00')"
    row = con.execute(f"SELECT bool_and({empty}) FILTER ({no}) FROM {role.look.relation}").fetchone()
    return bool(row and row[0])


def _same_in_requests(con: duckdb.DuckDBPyConnection, role: Role, name: str) -> bool:
    row = con.execute(f"""
        SELECT max(n) FROM (SELECT count(DISTINCT coalesce({quote(name)}, '')) AS n
                            FROM {role.look.relation} GROUP BY {_key(role)})
    """).fetchone()
    return bool(row and row[0] == 1)


def _least(con: duckdb.DuckDBPyConnection, role: Role, name: str, form: str) -> float:
    number = f"CAST({format_sql(quote(name), 'VARCHAR', form)} AS DOUBLE)"
    row = con.execute(f"SELECT min({number}) FROM {role.look.relation}").fetchone()
    return float(row[0]) if row and row[0] is not None else 0.0
