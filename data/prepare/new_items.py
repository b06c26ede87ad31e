"""Items that are held out of training, and what is unknown of a new item.

Held-out items are chosen by a hash of their id or of another column, so that the same ones are, on any machine. Their
impressions of the train and valid splits are left out; those of the test split stay, as of items on their first day.
"""

from equipoise.common.errors import UserError
from equipoise.common.nearest import did_you_mean
from equipoise.configs.schema import DataConfig
from equipoise.data.prepare.files import columns_of, literal, quote
from equipoise.data.prepare.splits import chosen
from equipoise.data.prepare.tables import ID_COLUMNS, REQUIRED, Tables, one

HELD_OUT = "held_out"
"""The column of items.parquet that marks them."""


def item_behaviour(config: DataConfig) -> list[str]:
    """The columns that a new item cannot have: those that are named, and the rates of each item."""
    rates = [name for rate in config.rates if "item_id" in rate.by for name in rate.names]
    return list(dict.fromkeys([*config.item_behaviour, *rates]))


def check_new_items(tables: Tables, config: DataConfig) -> None:
    """Refuse names that no table has, or that no item can be without.

    Raises:
        UserError: names the setting and the column.
    """
    holdout, items = config.split.holdout_items, tables.columns("items")
    if holdout and holdout.by not in items:
        raise UserError(
            f"{tables.labels['items']} (data.tables.items) has no column '{holdout.by}', which "
            f"data.split.holdout_items.by names{did_you_mean(holdout.by, items)}: add or rename it"
        )
    known = {*items, *tables.columns("impressions")}
    known |= {name for rate in config.rates for name in rate.names}
    for name in config.item_behaviour:
        if name not in known:
            raise UserError(
                f"data.item_behaviour names '{name}', which neither {tables.labels['impressions']} nor "
                f"{tables.labels['items']} has{did_you_mean(name, known)}: add or rename it"
            )
        if name in (*ID_COLUMNS, *REQUIRED["impressions"], *REQUIRED["items"]):
            raise UserError(f"data.item_behaviour names '{name}', which every item needs: drop it")


def mark_held_out(tables: Tables, config: DataConfig) -> None:
    """Create held_out_items (item_id), and forget in the table of items what cannot be known of them.

    Raises:
        UserError: no item is drawn.
    """
    con, holdout = tables.con, config.split.holdout_items
    con.execute("CREATE TABLE held_out_items (item_id VARCHAR)")
    if holdout is None or not holdout.fraction:
        return
    value = f"CAST({quote(holdout.by)} AS VARCHAR)"
    con.execute(f"INSERT INTO held_out_items SELECT item_id FROM items WHERE {chosen(value, holdout.fraction)}")
    if not one(con, "SELECT count(*) FROM held_out_items")[0]:
        raise UserError(
            f"data.split.holdout_items draws no value of '{holdout.by}': raise its fraction above {holdout.fraction:g} "
            "or draw by a column of more values"
        )
    for name in set(config.item_behaviour) & set(columns_of(con, "items")):
        con.execute(f"UPDATE items SET {quote(name)} = NULL WHERE item_id IN (FROM held_out_items)")


def is_new(tables: Tables, config: DataConfig) -> str:
    """The SQL condition that an impression i of a request r is shown as of a new item; "false" where none is.

    That is every one of a held-out item, and `data.item_dropout` of the impressions of the train split.
    """
    conditions = []
    if one(tables.con, "SELECT count(*) FROM held_out_items")[0]:
        conditions.append("i.item_id IN (FROM held_out_items)")
    if config.item_dropout:
        row = f"i.request_id || {literal(' of ')} || i.item_id"
        conditions.append(f"(r.split = 0 AND {chosen(row, config.item_dropout)})")
    return " OR ".join(conditions) or "false"
