"""The items of a prepared folder: their numbers, and the table of them with their texts."""

from pathlib import Path

import pyarrow.parquet as pq

from equipoise.configs.schema import DataConfig
from equipoise.data.prepare.files import literal, quote
from equipoise.data.prepare.new_items import HELD_OUT
from equipoise.data.prepare.parts import numbered_sql
from equipoise.data.prepare.tables import Tables

ITEM_BATCH = 10_000


def number_items(tables: Tables, before: Path | None = None) -> None:
    """Create item_numbers (item_id, item_index): the items that occur in an impression, numbered by item_id.

    `before`: items.parquet of what these impressions follow, whose items keep their numbers.
    """
    shown = "SELECT DISTINCT item_id FROM impressions"
    tables.con.execute(f"CREATE TABLE item_numbers AS {numbered_sql('item_id', 'item_index', shown, before)}")


def write_items(tables: Tables, config: DataConfig, path: Path, before: Path | None = None) -> None:
    """Write items.parquet: the items of item_numbers with texts, things, and which are held out, where there are such.

    Args:
        tables: with item_texts, item_numbers, held_out_items and, for a comparison, item_things.
        config: of the data.
        path: of the file.
        before: items.parquet of what these impressions follow; items that the table lacks by now stay as there.
    """
    con, own, join = tables.con, {}, ""
    if config.comparison is not None:
        own["thing_index"], join = "h.thing_index", "LEFT JOIN item_things h USING (item_id)"
    if config.split.holdout_items is not None:
        own[HELD_OUT] = "n.item_id IN (FROM held_out_items)"
    taken = ("item_id", "item_index", "text", *own)
    others = "".join(f", i.{quote(name)}" for name in tables.columns("items") if name not in taken)
    added = "".join(f", {value} AS {name}" for name, value in own.items())
    query = f"""
        SELECT n.item_index, n.item_id, t.text{added}{others}
        FROM item_numbers n JOIN items i USING (item_id) JOIN item_texts t USING (item_id) {join}
    """
    if before is not None:
        query += f"""
            UNION ALL BY NAME
            SELECT * FROM read_parquet({literal(str(before))}) WHERE item_id NOT IN (SELECT item_id FROM items)
        """
    reader = con.sql(f"SELECT * FROM ({query}) ORDER BY item_index").to_arrow_reader(ITEM_BATCH)
    with pq.ParquetWriter(path, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)
