"""What a server needs next to the adapters: items by id, limits, and requests to try."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from equipoise.common.lists import ListRule
from equipoise.configs.schema import RunConfig
from equipoise.data.features import CategoryScale, category_text
from equipoise.data.prompts import is_missing
from equipoise.data.rates import FOLDER as RATES_FOLDER
from equipoise.data.rates import key_text
from equipoise.data.slate_set import SlateSet
from equipoise.export.beside_text import PreparedThings
from equipoise.train.validation import spread_rows

ITEMS = "items.parquet"
THING = "thing"
"""Column of what items are compared by."""
ATTRIBUTE = "attribute_"
"""Before the name of an attribute by which lists are made, in the name of its column."""
EXAMPLES = "examples.jsonl"
MAX_EXAMPLES = 20
EXAMPLE_CANDIDATES = 30


def write_catalogue(folder: Path, slates: SlateSet, config: RunConfig, lists: ListRule | None = None) -> dict[str, Any]:
    """Write items.parquet, examples.jsonl and the states of rates into an export; returns their part of serving.json.

    Args:
        folder: of the export.
        slates: the test split.
        config: of the run.
        lists: how it makes lists, whose attributes are kept; None where it reads none.
    """
    items = slates.items.table
    columns = [name for name in ("item_id", "text", "title") if name in items.column_names]
    scales = slates.manifest.features
    features = list(scales)
    table = items.select(columns)
    for name in features:
        if name in items.column_names:
            scale = scales[name]
            if isinstance(scale, CategoryScale) and name in columns:
                continue  # an id or a title is there as it is
            cells = items.column(name).to_pylist()
            if isinstance(scale, CategoryScale) and scale.hashed:
                values: list[Any] = [None if cell is None else category_text(cell) for cell in cells]
            else:
                read = [scale.read(cell) for cell in cells]
                values = [None if value is None else scale.to_cell(value) for value in read]
            rest = table.drop_columns(name) if name in columns else table
            kind = pa.string() if isinstance(scale, CategoryScale) else pa.float64()
            table = rest.append_column(name, pa.array(values, kind))
    rates = slates.manifest.rates
    for name in dict.fromkeys(name for rate in rates for name in rate.by if name in items.column_names):
        # Beside a feature of that name, which holds the texts that training shows most alone.
        keys = [key_text(value) for value in items.column(name).to_pylist()]
        table = table.append_column(f"key_{name}", pa.array(keys, pa.string()))
    things = PreparedThings(slates.folder) if config.data.comparison is not None else None
    if things is not None:
        compared = [things.item(number) for number in range(len(items))]
        table = table.append_column(THING, pa.array(compared, pa.string()))
    for name in lists.attributes() if lists else ():
        table = table.append_column(f"{ATTRIBUTE}{name}", pa.array(slates.items.values(name), pa.string()))
    pq.write_table(table, folder / ITEMS, compression="zstd")
    for rate in rates:
        (folder / RATES_FOLDER).mkdir(exist_ok=True)
        shutil.copyfile(config.data.folder / RATES_FOLDER / rate.file, folder / RATES_FOLDER / rate.file)
    ids = items.column("item_id").to_pylist()
    rows = [slates.rows[row] for row in spread_rows(len(slates), MAX_EXAMPLES)]
    examples = [_make_example(row, ids, features) | _recent(row, things) for row in rows]
    lines = [json.dumps(example, ensure_ascii=False) + "\n" for example in examples]
    (folder / EXAMPLES).write_text("".join(lines), "utf-8")
    return {
        "catalogue": {"items": ITEMS, "count": len(ids), "examples": EXAMPLES},
        "limits": {"candidates": config.data.max_candidates, "max_row": config.tokens.max_row},
        "rates": [rate.file for rate in rates],
    }


def _make_example(record: dict[str, Any], ids: list[str], features: list[str]) -> dict[str, Any]:
    """One test request as JSON, with a name, and the positions of what was clicked and converted."""
    positions = _choose_shown(record["click"])
    chosen = [(ids[record["item"][position]], record["context"][position]) for position in positions]
    candidates: list[dict[str, Any]] = [
        {"item_id": item} | ({"context": context} if context else {}) for item, context in chosen
    ]
    for position, candidate in zip(positions, candidates, strict=True):
        values = {name: record[f"feature_{name}"][position] for name in features}
        known = {name: value for name, value in values.items() if not is_missing(value)}
        candidate |= {"features": known} if known else {}
    clicked, converted = ([n for n, p in enumerate(positions) if record[label][p]] for label in ("click", "conversion"))
    every = len(positions) == len(record["item"])
    count = f"{len(positions)} {'candidates' if every else 'of its candidates'}"
    return {
        "name": f"request {record['request_id']}: {count}, {len(clicked)} clicked",
        "request_id": str(record["request_id"]),
        "prefix": record["prefix"],
        "candidates": candidates,
        "clicked": clicked,
        "converted": converted,
    }


def _recent(row: dict[str, Any], things: PreparedThings | None) -> dict[str, Any]:
    """What the candidates of an example are compared with."""
    return {} if things is None else {"recent": list(things.of(row, []).history)}


def _choose_shown(click: list[int]) -> list[int]:
    """Which candidates an example shows: all, or the clicked ones and some others, in the order they were shown in."""
    if len(click) <= EXAMPLE_CANDIDATES:
        return list(range(len(click)))
    clicked = [position for position, label in enumerate(click) if label][:EXAMPLE_CANDIDATES]
    others = [position for position, label in enumerate(click) if not label]
    spread = spread_rows(len(others), EXAMPLE_CANDIDATES - len(clicked))
    return sorted([*clicked, *(others[position] for position in spread)])
