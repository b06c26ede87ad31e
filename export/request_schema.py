"""request_schema.json: what a request for an export looks like, as JSON Schema with the export's own names and bounds.

It says of POST /rank what `serving/requests.py` reads, so that a client can check its requests, and code can be made
from it. A server serves it as GET /request_schema.json.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from equipoise.common.atomic import atomic_write
from equipoise.configs.schema import read_sections, trained_prompt
from equipoise.data.features import CategoryScale, read_scales
from equipoise.data.prompts import parse_piece
from equipoise.data.rates import FOLDER as RATES_FOLDER
from equipoise.data.rates import RateLookup

SCHEMA_FILE = "request_schema.json"
TEXT_CHARS, PREFIX_CHARS, HISTORY_ENTRIES = 4_000, 20_000, 1_000
LARGEST_BOOST = 5.0
LISTED = 200
"""Values of a list that is one field."""
MAX_NUMBER = 1e15
"""Of weights and worths."""
LEAST_WHOLE, MOST_WHOLE = -(2**63), 2**64
"""Whole numbers that columns hold."""

Json = dict[str, Any]
TEXT: Json = {"type": "string", "maxLength": TEXT_CHARS}
# One step of float64 within the bounds: readers of schemas that hold numbers as such would round beyond them.
WHOLE: Json = {"minimum": LEAST_WHOLE + 2**10, "maximum": MOST_WHOLE - 2**11}
ID: Json = {"anyOf": [{**TEXT, "minLength": 1}, {"type": "integer", **WHOLE}]}
NUMBER: Json = {"type": "number", "minimum": -MAX_NUMBER, "maximum": MAX_NUMBER}
MEASURE: Json = {"type": "number", **WHOLE}
PLAIN: list[Json] = [TEXT, MEASURE, {"type": "boolean"}, {"type": "null"}]
VALUE: Json = {"anyOf": [*PLAIN, {"type": "array", "items": {"anyOf": PLAIN}, "maxItems": LISTED}]}
NUMERIC: Json = {"anyOf": [MEASURE, TEXT, {"type": "null"}], "description": "A number, or text that spells one."}
EVENT: Json = {
    "anyOf": [
        TEXT,
        {"type": "object", "properties": {"item_id": ID}, "required": ["item_id"], "additionalProperties": False},
    ]
}
EVENTS: Json = {"type": "array", "items": EVENT, "maxItems": HISTORY_ENTRIES}


def request_schema(record: Mapping[str, Any], keys: Iterable[str] = ()) -> Json:
    """The JSON Schema of requests for an export.

    Args:
        record: its serving.json.
        keys: columns that its rates count by.
    """
    prompt = trained_prompt(record["prompt"])
    numeric, fields = _fields({"user": prompt.prefix, "item": prompt.item, "context": prompt.context})
    scales = read_scales(record.get("features", {}))
    numbers = {name: (VALUE if isinstance(scale, CategoryScale) else NUMERIC) for name, scale in scales.items()}
    shared = {**numbers, **dict.fromkeys(keys, VALUE)}
    lists, compared = record.get("lists") or {}, record.get("comparison") or {}
    attributes = dict.fromkeys(n for term in lists.get("terms", {}).values() for n in term.get("attributes") or ())
    own = {
        place: {**dict.fromkeys(names, VALUE), **dict.fromkeys(numeric[place] & set(names), NUMERIC)}
        for place, names in fields.items()
    }
    point = record["operating_point"]
    extra = {
        "user": {"user_id": VALUE},
        "item": {"item_id": VALUE, **dict.fromkeys([*attributes, *([compared["item"]] if compared else [])], VALUE)},
        "context": dict.fromkeys(point.get("value_exponents") or {}, NUMERIC),
    }
    of = {place: _object({**extra[place], **shared, **own[place]}) for place in own}
    candidate = {
        "item_id": {**ID, "description": "Of the export's items, unless item or text is given."},
        "item": of["item"],
        "text": {**TEXT, "description": "The item as ready text, in place of item."},
        "context": {"anyOf": [of["context"], TEXT], "description": "Fields of the impression, or ready text."},
        "features": _object(shared),
        "attributes": _object(dict.fromkeys(attributes, VALUE)),
        "value": {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_NUMBER},
        "boost": {"type": "number", "minimum": -LARGEST_BOOST, "maximum": LARGEST_BOOST},
    }
    bounds = {name: (point.get("bounds") or {}).get(name, (0.0, 5.0)) for name in point["omega"]}
    omega = {name: {"type": "number", "minimum": low, "maximum": high} for name, (low, high) in bounds.items()}
    sections = read_sections(record["history"])
    history = _object({section.key: EVENTS for section in sections})
    request = {
        "request_id": ID,
        "user": of["user"],
        "history": {"anyOf": [EVENTS, history]} if len(sections) == 1 else history,
        "prefix": {"type": "string", "maxLength": PREFIX_CHARS, "description": "In place of user and history."},
        "recent": EVENTS,
        "candidates": {
            "type": "array",
            "items": _object(candidate),
            "minItems": 1,
            "maxItems": record["limits"]["candidates"],
        },
        "omega": _object(omega),
        "value_weight": NUMBER,
        "top": {"type": "integer", "minimum": 1},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"A request for {record['run']}",
        **_object(request),
        "required": ["candidates"],
    }


def write_request_schema(folder: Path, record: Mapping[str, Any]) -> None:
    """Write it into an export whose serving.json says `record`, whole or not at all."""
    keys = RateLookup.read(folder / RATES_FOLDER / name for name in record["rates"]).keys
    with atomic_write(folder / SCHEMA_FILE) as partial:
        text = json.dumps(request_schema(record, keys), indent=2, ensure_ascii=False)
        partial.write_text(text + "\n", "utf-8")


def _object(properties: Mapping[str, Json]) -> Json:
    """An object of these keys and no others, each of which may be null."""
    own = {name: {"anyOf": [about, {"type": "null"}]} for name, about in properties.items()}
    return {"type": "object", "properties": own, "additionalProperties": False}


def _fields(pieces: Mapping[str, list[str]]) -> tuple[dict[str, set[str]], dict[str, list[str]]]:
    """By place the fields that are read as numbers, and all fields, in the order of the pieces."""
    placeholders = {
        place: [found for text in texts for found in parse_piece(text).placeholders] for place, texts in pieces.items()
    }
    numeric = {place: {p.name for p in found if p.filter} for place, found in placeholders.items()}
    return numeric, {place: list(dict.fromkeys(p.name for p in found)) for place, found in placeholders.items()}
