"""What a server needs beside the adapters: the items by id, limits, and real requests to try."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from equipoise.configs.schema import RunConfig
from equipoise.data.features import CategoryScale
from equipoise.data.prompts import is_missing
from equipoise.data.slate_set import SlateSet
from equipoise.train.validation import spread_rows

ITEMS = "items.parquet"
EXAMPLES = "examples.jsonl"
MOST_EXAMPLES = 20
EXAMPLE_CANDIDATES = 30


def write_catalogue(folder: Path, slates: SlateSet, config: RunConfig) -> dict[str, Any]:
    """Write items.parquet and examples.jsonl into an export; returns their part of serving.json.

    Args:
        folder: of the export.
        slates: the test split.
        config: of the run.
    """
    items = slates.items.table
    columns = [name for name in ("item_id", "text", "title") if name in items.column_names]
    scales = slates.manifest.features
    features = list(scales)
    table = items.select(columns)
    for name in features:
        if name in items.column_names:
            scale = scales[name]
            read = [scale.read(value) for value in items.column(name).to_pylist()]
            values = [None if value is None else scale.tell(value) for value in read]
            rest = table.drop_columns(name) if name in columns else table
            kind = pa.string() if isinstance(scale, CategoryScale) else pa.float64()
            table = rest.append_column(name, pa.array(values, kind))
    pq.write_table(table, folder / ITEMS, compression="zstd")
    ids = items.column("item_id").to_pylist()
    examples = [_example(slates.rows[row], ids, features) for row in spread_rows(len(slates), MOST_EXAMPLES)]
    lines = [json.dumps(example, ensure_ascii=False) + "\n" for example in examples]
    (folder / EXAMPLES).write_text("".join(lines), "utf-8")
    return {
        "catalogue": {"items": ITEMS, "count": len(ids), "examples": EXAMPLES},
        "limits": {"candidates": config.data.max_candidates, "max_row": config.tokens.max_row},
    }


def _example(record: dict[str, Any], ids: list[str], features: list[str]) -> dict[str, Any]:
    """One test request as JSON, with a name, and the places of what was clicked and converted."""
    places = _places(record["click"])
    chosen = [(ids[record["item"][place]], record["context"][place]) for place in places]
    candidates: list[dict[str, Any]] = [
        {"item_id": item} | ({"context": context} if context else {}) for item, context in chosen
    ]
    for place, candidate in zip(places, candidates, strict=True):
        values = {name: record[f"feature_{name}"][place] for name in features}
        told = {name: value for name, value in values.items() if not is_missing(value)}
        candidate |= {"features": told} if told else {}
    clicked, converted = ([n for n, p in enumerate(places) if record[label][p]] for label in ("click", "conversion"))
    count = f"{len(places)} candidates" if len(places) == len(record["item"]) else f"{len(places)} of its candidates"
    return {
        "name": f"request {record['request_id']}: {count}, {len(clicked)} clicked",
        "request_id": str(record["request_id"]),
        "prefix": record["prefix"],
        "candidates": candidates,
        "clicked": clicked,
        "converted": converted,
    }


def _places(click: list[int]) -> list[int]:
    """Which candidates an example shows: all, or the clicked ones and some others, in the order they were shown in."""
    if len(click) <= EXAMPLE_CANDIDATES:
        return list(range(len(click)))
    clicked = [place for place, label in enumerate(click) if label][:EXAMPLE_CANDIDATES]
    others = [place for place, label in enumerate(click) if not label]
    spread = spread_rows(len(others), EXAMPLE_CANDIDATES - len(clicked))
    return sorted([*clicked, *(others[place] for place in spread)])
