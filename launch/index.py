"""`equipoise index EXPORT`: encode an export's catalogue again, with new items or for another kind of search."""

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from equipoise.common.atomic import atomic_write, replace_dir
from equipoise.common.console import new_console
from equipoise.common.errors import UserError
from equipoise.common.hashing import file_hash
from equipoise.common.lists import UNKNOWN, attribute_text
from equipoise.configs.schema import read_sections, trained_prompt
from equipoise.data.features import category_text
from equipoise.data.prepare.tables import moment, one
from equipoise.data.prompts import piece_fields, render_pieces
from equipoise.data.ragged import Ragged
from equipoise.data.rates import key_text
from equipoise.data.requests.table import open_table
from equipoise.data.separators import teller_of
from equipoise.data.values import value_text
from equipoise.export.catalogue import ATTRIBUTE, THING
from equipoise.export.files import open_record
from equipoise.export.item_index import SOURCES, read_vectors
from equipoise.export.load import frozen_text, load_export
from equipoise.export.recall_catalogue import INDEX, IndexedItems, item_vectors, write_index
from equipoise.export.serving_record import with_base, write_serving_record
from equipoise.modeling.recall_sources import RecallSources
from equipoise.serving.export_tokens import read_tokenizer

POPULARITY, KEY = "log_popularity", "key_"


def rebuild_index(
    export: Path, items: Path | None, exact: bool | None, purchases: Path | None = None, base: str | None = None
) -> None:
    """Write the index of every objective of retrieval anew; with `items`, also the export's items.parquet.

    Args:
        export: its folder.
        items: a table with item_id, `text` or the columns that the item template reads, and, where it is known,
            `log_popularity`. Without it, items that are known keep theirs, and new ones get the least of all.
        exact: score every item, or search with FAISS; None: by the size of the catalogue.
        purchases: a table with request_id, item_id and timestamp, whose popularity and co-purchase replace those of
            training.
        base: folder or hub id of the base model, where it is elsewhere than at export.

    Raises:
        UserError: the export has no recall, a table is unreadable, or FAISS is missing.
    """
    record = open_record(export)
    if not record.get("retrieval"):
        raise UserError(f"{export} has no objective recall: train with objectives.recall")
    console = new_console()
    held = pq.read_table(export / record["catalogue"]["items"])
    table = held if items is None else _new_items(items, record, held)
    if purchases is not None and POPULARITY in table.column_names:
        raise UserError(f"{items} has a column {POPULARITY}, and --purchases counts popularity too: drop one of them")
    counted = None if purchases is None else read_purchases(purchases, table.column("item_id").to_pylist())
    new_indices: dict[str, Path] = {}
    with tempfile.TemporaryDirectory(dir=export, prefix=".index-") as room, console.status("encoding items") as status:
        for name, about in record["retrieval"].items():
            catalogue = _catalogue(
                export, with_base(record, base), name, table if items else None, held, counted, status.update
            )
            new_indices[about["folder"]] = Path(room) / name
            index = write_index(new_indices[about["folder"]], catalogue, about["weights"], exact)
            console.print(f"{name}: {len(index):,} items, {'exact' if index.exact else 'FAISS'}")
        # Everything is ready: now the files take their places.
        for folder, new in new_indices.items():
            replace_dir(new, export / folder / INDEX)
        if items is not None:
            with atomic_write(export / record["catalogue"]["items"]) as partial:
                pq.write_table(table.select([n for n in table.column_names if n != POPULARITY]), partial)
            record["catalogue"]["count"] = table.num_rows
            name = record["catalogue"]["items"]
            if "files" in record:
                record["files"][name] = file_hash(export / name)
            write_serving_record(export, record)
    if counted is not None:
        console.print(f"{len(counted[0]):,} requests counted ({counted[2]:,} rows of other items left out)")


def _catalogue(
    export: Path,
    record: dict[str, Any],
    name: str,
    new: pa.Table | None,
    held: pa.Table,
    counted: tuple[Ragged, np.ndarray, int] | None,
    on_progress: Callable[[str], None],
) -> IndexedItems:
    """What the index of one objective is made of, for the items of a new table, or for those that it holds."""
    about = record["retrieval"][name]
    folder = export / about["folder"] / INDEX
    indexed, bias, before = read_vectors(folder)
    table = held if new is None else new
    known = {item: number for number, item in enumerate(held.column("item_id").to_pylist())}
    sources = RecallSources.read(folder / SOURCES) if (folder / SOURCES).is_dir() else None
    if counted is not None and sources is None:
        raise UserError(f"{export} is of before purchases could be counted again: train and export again")
    texts = table.column("text").to_pylist()
    own = before.get("own_dimension", indexed.shape[1])
    vectors = indexed[:, :own] if own else np.zeros((len(texts), 0), np.float32)
    if own and (new is not None or counted is None):
        model = load_export(export, record)
        vectors = item_vectors(model, name, read_tokenizer(export, record, model.backbone.encoder), texts, on_progress)
    prior = about["weights"]["prior"]
    if sources is None:
        old = bias / prior if prior else np.zeros_like(bias)
        return IndexedItems(vectors, _log_popularity(table, known, old), None)
    ids = table.column("item_id").to_pylist()
    if new is not None:
        on_progress("vectors of titles")
        sources = sources.with_items([known.get(item, -1) for item in ids], frozen_text(export, record).vectors(texts))
        popularity = np.stack([_log_popularity(table, known, old) for old in _held_popularity(folder)])
        sources = replace(sources, counts=replace(sources.counts, popularity=popularity))
    if counted is not None:
        sources = sources.counted_again(*counted[:2])
    return IndexedItems(vectors, sources.counts.popularity[0], sources)


def _held_popularity(folder: Path) -> np.ndarray:
    return RecallSources.read(folder / SOURCES).counts.popularity


def read_purchases(path: Path, item_ids: Sequence[str]) -> tuple[Ragged, np.ndarray, int]:
    """Purchases by request: numbers of items, days before the latest one, and rows of items that are not there.

    Raises:
        UserError: the table is unreadable, lacks a column, or holds nothing of these items.
    """
    with duckdb.connect() as con:
        kinds = open_table(con, path, "purchases")
        missing = [name for name in ("request_id", "item_id", "timestamp") if name not in kinds]
        if missing:
            raise UserError(
                f"{path} has no column {missing[0]}: give request_id (what counts as bought together), item_id and "
                "timestamp"
            )
        nameless = one(con, "SELECT count(*) FROM purchases WHERE request_id IS NULL")[0]
        if nameless:
            raise UserError(f"{path} has {nameless:,} purchases without request_id: fill the column")
        cursor = con.cursor()
        cursor.register("catalogue", pa.table({"item": list(item_ids), "number": np.arange(len(item_ids))}))
        rows = cursor.sql(
            "SELECT CAST(request_id AS VARCHAR) AS request, number, "
            f"max(epoch({moment('timestamp', kinds['timestamp'])})) AS moment, "
            f"bool_or({moment('timestamp', kinds['timestamp'])} IS NULL) AS timeless, count(*) AS rows "
            "FROM purchases LEFT JOIN catalogue ON CAST(item_id AS VARCHAR) = item "
            "GROUP BY ALL ORDER BY request, number"
        ).fetchnumpy()
    number = np.ma.filled(np.ma.asarray(rows["number"], dtype=float), -1).astype(np.int64)
    seconds: np.ndarray = np.ma.filled(np.ma.asarray(rows["moment"], dtype=float), np.nan)
    held = number >= 0
    if not held.any():
        raise UserError(f"{path} holds no item of the catalogue: its item_id must be those of the items")
    if np.asarray(rows["timeless"])[held].any():
        raise UserError(
            f"{path} has a purchase without a timestamp that can be read: write them as ISO 8601, such as "
            "2024-05-01 13:30:00"
        )
    request = np.asarray(rows["request"])[held]
    begins = np.flatnonzero(np.append(True, request[1:] != request[:-1]))
    taken = Ragged(number[held], np.append(begins, len(request)))
    return taken, (seconds[held].max() - seconds[held][begins]) / 86_400.0, int(np.asarray(rows["rows"])[~held].sum())


def _new_items(path: Path, record: dict[str, Any], held: pa.Table) -> pa.Table:
    """A table of items with item_id, text, and what else the export holds of them, from the file or as before."""
    with duckdb.connect() as con:
        kinds = open_table(con, path, "new_items")
        if "item_id" not in kinds:
            raise UserError(f"{path} has no column item_id: add it")
        table: pa.Table = con.cursor().sql("SELECT * FROM new_items").to_arrow_table()
    ids = table.column("item_id").to_pylist()
    if None in ids or len(set(ids)) < len(ids):
        raise UserError(f"{path} has a row without item_id, or an item_id twice: every item stands there once")
    if "text" not in kinds:
        pieces = trained_prompt(record["prompt"])
        tell = teller_of(pieces, read_sections(record["history"]))
        wanted = piece_fields(pieces.item)
        missing = [name for name in wanted if name not in kinds]
        if len(missing) == len(wanted):
            raise UserError(f"{path} has neither text nor any of {', '.join(wanted)}: add what tells of the items")
        rows = table.to_pylist()
        texts = [render_pieces(pieces.item, row, pieces.separator, tell) for row in rows]
        table = table.append_column("text", pa.array(texts, pa.string()))
    elif not pa.types.is_string(table.schema.field("text").type):
        raise UserError(f"{path}: column text holds no texts: correct it, or leave it out")
    empty = [item for item, text in zip(ids, table.column("text").to_pylist(), strict=True) if not text]
    if empty:
        raise UserError(f"{path}: item '{empty[0]}' and {len(empty) - 1} more have no text: fill their columns")
    kept = table.select([name for name in ("item_id", "text", "title", POPULARITY) if name in table.column_names])
    if POPULARITY in table.column_names:
        kept = kept.set_column(kept.column_names.index(POPULARITY), POPULARITY, _numbers(path, POPULARITY, table))
    if "title" in kept.column_names:
        titles = pa.array([value_text(cell) for cell in kept.column("title").to_pylist()], pa.string())
        kept = kept.set_column(kept.column_names.index("title"), "title", titles)
    for name in held.column_names:
        if name not in ("item_id", "text", "title"):
            kept = kept.append_column(name, _carried(path, name, table, held, record))
    return kept


def _carried(path: Path, name: str, table: pa.Table, held: pa.Table, record: dict[str, Any]) -> pa.Array:
    """A column of the export's items, for new ones: from what the file says, else as before, else unknown."""
    source = record["comparison"]["item"] if name == THING else name.removeprefix(KEY).removeprefix(ATTRIBUTE)
    kind = held.schema.field(name).type
    if source not in table.column_names:
        before = dict(zip(held.column("item_id").to_pylist(), held.column(name).to_pylist(), strict=True))
        blank = "" if name == THING else UNKNOWN if name.startswith(ATTRIBUTE) else None
        return pa.array([before.get(item, blank) for item in table.column("item_id").to_pylist()], kind)
    if pa.types.is_floating(kind):
        return _numbers(path, source, table)
    cells = table.column(source).to_pylist()
    if name == THING:
        return pa.array([(value_text(cell) or "").strip() for cell in cells], kind)
    if name.startswith(ATTRIBUTE):
        return pa.array([attribute_text(cell) for cell in cells], kind)
    if name.startswith(KEY):
        return pa.array([key_text(cell) for cell in cells], kind)
    return pa.array([None if cell is None else category_text(cell) for cell in cells], kind)


def _numbers(path: Path, name: str, table: pa.Table) -> pa.Array:
    """A column as finite numbers, null where unknown."""
    try:
        numbers = [None if cell is None else float(cell) for cell in table.column(name).to_pylist()]
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: column {name} holds something else than numbers ({error}): correct it") from error
    if any(number is not None and not math.isfinite(number) for number in numbers):
        raise UserError(f"{path}: column {name} holds a number that is not finite: correct it, or leave it empty")
    return pa.array(numbers, pa.float64())


def _log_popularity(table: pa.Table, known: dict[str, int], log_popularity: np.ndarray) -> np.ndarray:
    """Of every item of the table: as it says, else as before, else the least of all."""
    least = float(log_popularity.min()) if len(log_popularity) else 0.0
    before = [
        float(log_popularity[known[item]]) if item in known else least for item in table.column("item_id").to_pylist()
    ]
    if POPULARITY not in table.column_names:
        return np.array(before, dtype=np.float32)
    in_table = table.column(POPULARITY).to_pylist()
    pairs = zip(in_table, before, strict=True)
    return np.array([other if value is None else float(value) for value, other in pairs], dtype=np.float32)
