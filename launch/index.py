"""`equipoise index EXPORT`: encode an export's catalogue again, with new items or for another kind of search."""

import json
import tempfile
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from equipoise.common.atomic import atomic_write, replace_dir
from equipoise.common.console import new_console
from equipoise.common.errors import UserError
from equipoise.configs.schema import PromptConfig
from equipoise.data.prompts import piece_fields, render_pieces
from equipoise.data.requests.table import open_table
from equipoise.export.catalogue import INDEX, item_vectors, write_index
from equipoise.export.item_index import read_vectors
from equipoise.export.load import load_export
from equipoise.export.serving_record import FILE_NAME, read_serving_record
from equipoise.serving.export_tokens import read_tokenizer


def rebuild_index(export: Path, items: Path | None, exact: bool | None) -> None:
    """Write the index of every objective of retrieval anew; with `items`, also the export's items.parquet.

    Args:
        export: its folder.
        items: a table with item_id, `text` or the columns that the item template reads, and, where it is known,
            `log_popularity`. Without it, items that are known keep theirs, and new ones get the least of all.
        exact: score every item, or search with FAISS; None: by the size of the catalogue.

    Raises:
        UserError: the export has no recall, the table is unreadable, or FAISS is missing.
    """
    record = read_serving_record(export)
    if not record.get("retrieval"):
        raise UserError(f"{export} has no objective recall: train with objectives.recall")
    console = new_console()
    held = pq.read_table(export / record["catalogue"]["items"])
    table = held if items is None else _new_items(items, record["prompt"])
    model = load_export(export, record)
    tokenizer = read_tokenizer(export, record, model.backbone.encoder)
    known = {item: number for number, item in enumerate(held.column("item_id").to_pylist())}
    new_indices: dict[str, Path] = {}
    with tempfile.TemporaryDirectory(dir=export, prefix=".index-") as room, console.status("encoding items") as status:
        for name, about in record["retrieval"].items():
            texts = table.column("text").to_pylist()
            vectors = item_vectors(model, name, tokenizer, texts, status.update)
            _, bias, _ = read_vectors(export / about["folder"] / INDEX)
            prior = about["weights"]["prior"]
            log_popularity = _log_popularity(table, known, bias / prior if prior else np.zeros_like(bias))
            new_indices[about["folder"]] = Path(room) / name
            index = write_index(new_indices[about["folder"]], vectors, log_popularity, about["weights"], exact)
            console.print(f"{name}: {len(index):,} items, {'exact' if index.exact else 'FAISS'}")
        # Everything is ready: now the files take their places.
        for folder, new in new_indices.items():
            replace_dir(new, export / folder / INDEX)
        if items is not None:
            with atomic_write(export / record["catalogue"]["items"]) as partial:
                pq.write_table(table.select([n for n in table.column_names if n != "log_popularity"]), partial)
            record["catalogue"]["count"] = table.num_rows
            with atomic_write(export / FILE_NAME) as partial:
                partial.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _new_items(path: Path, prompt: dict[str, Any]) -> pa.Table:
    """A table of items with item_id, text, and title where it has one."""
    with duckdb.connect() as con:
        kinds = open_table(con, path, "new_items")
        if "item_id" not in kinds:
            raise UserError(f"{path} has no column item_id: add it")
        table: pa.Table = (
            con.cursor().sql("SELECT * REPLACE (CAST(item_id AS VARCHAR) AS item_id) FROM new_items").to_arrow_table()
        )
    ids = table.column("item_id").to_pylist()
    if None in ids or len(set(ids)) < len(ids):
        raise UserError(f"{path} has a row without item_id, or an item_id twice: every item stands there once")
    if "text" not in kinds:
        pieces = PromptConfig(**prompt)
        wanted = piece_fields(pieces.item)
        missing = [name for name in wanted if name not in kinds]
        if len(missing) == len(wanted):
            raise UserError(f"{path} has neither text nor any of {', '.join(wanted)}: add what tells of the items")
        rows = table.to_pylist()
        texts = [render_pieces(pieces.item, row, pieces.separator) for row in rows]
        table = table.append_column("text", pa.array(texts, pa.string()))
    empty = [item for item, text in zip(ids, table.column("text").to_pylist(), strict=True) if not text]
    if empty:
        raise UserError(f"{path}: item '{empty[0]}' and {len(empty) - 1} more have no text: fill their columns")
    kept = [name for name in ("item_id", "text", "title", "log_popularity") if name in table.column_names]
    return table.select(kept)


def _log_popularity(table: pa.Table, known: dict[str, int], log_popularity: np.ndarray) -> np.ndarray:
    """Of every item of the table: as it says, else as before, else the least of all."""
    least = float(log_popularity.min()) if len(log_popularity) else 0.0
    before = [
        float(log_popularity[known[item]]) if item in known else least for item in table.column("item_id").to_pylist()
    ]
    if "log_popularity" not in table.column_names:
        return np.array(before, dtype=np.float32)
    in_table = table.column("log_popularity").to_pylist()
    pairs = zip(in_table, before, strict=True)
    return np.array([other if value is None else float(value) for value, other in pairs], dtype=np.float32)
