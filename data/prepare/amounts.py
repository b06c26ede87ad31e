"""Refuses numbers whose point may be of thousands or of decimals: who wrote the table must say which."""

from collections.abc import Iterator

import duckdb

from equipoise.common.errors import UserError
from equipoise.configs.schema import DataConfig
from equipoise.data.prepare.files import quote, unreadable
from equipoise.data.prepare.tables import Tables
from equipoise.data.prompts import parse_piece

THOUSANDS = r"[-+]?[1-9]\d{0,2}(\.\d{3})+"
"""What 2972 looks like where a point separates thousands, and 2.972 where it separates decimals."""


def refuse_ambiguous(tables: Tables, config: DataConfig) -> None:
    """Ask about a column of texts that is read as numbers, has points before three digits alone, and no format.

    Raises:
        UserError: names the file, the value, both readings, and how to say which is meant.
    """
    said = {(column.table, column.name) for column in tables.formatted}
    for table, name in dict.fromkeys(_read_as_numbers(tables, config)):
        if (table, name) in said or tables.columns(table).get(name) != "VARCHAR":
            continue
        text = f"trim({quote(name)})"
        query = f"""
            SELECT first(text ORDER BY row) FILTER (asked), min(row) FILTER (asked),
                   first(text ORDER BY row) FILTER (NOT dotted AND text <> ''), bool_or(dotted AND NOT asked)
            FROM (SELECT {text} AS text, row_number() OVER () AS row, contains({text}, '.') AS dotted,
                         regexp_full_match({text}, '{THOUSANDS}') AS asked FROM raw_{table})
        """
        try:
            row = tables.con.execute(query).fetchone()
        except duckdb.Error as error:
            raise unreadable(tables.labels[table], error) from error
        assert row is not None
        value, number, other, is_settled = row
        if value is None or is_settled:
            continue
        next_to = f" next to '{other}'" if other else ""
        whole = value.replace(".", "")
        place, setting = f"{tables.labels[table]} (data.tables.{table})", f"data.tables.{table}.formats"
        raise UserError(
            f"{place} has {name} '{value}' in row {number}{next_to}: is it {whole} "
            f"or a number with three decimals? Say so with {setting}: {{{name}: german}} for {whole}, or "
            f"{{{name}: plain}} for decimals"
        )


def _read_as_numbers(tables: Tables, config: DataConfig) -> Iterator[tuple[str, str]]:
    """Table and name of every column that is read as numbers."""
    owners = [name for name in ("impressions", "items", "users") if tables.has(name)]
    prompt = config.prompt
    wanted = [(name, ["impressions"]) for name in config.fields]
    wanted += [(feature.name, owners) for feature in config.features if feature.scale != "category"]
    for pieces, places in (
        (prompt.prefix, ["impressions", "users"]),
        (prompt.item, ["items"]),
        (prompt.context, ["impressions"]),
    ):
        names = [p.name for piece in pieces for p in parse_piece(piece).placeholders if p.filter]
        wanted += [(name, places) for name in names]
    for name, places in wanted:
        table = next((place for place in places if name in tables.columns(place)), None)
        if table is not None:
            yield table, name
