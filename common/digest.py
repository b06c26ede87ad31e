"""The digest of a record by which a changed byte of it is noticed."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

KEY = "sha256"


def record_digest(record: Mapping[str, Any]) -> str:
    """The sha256 of a record as JSON, its own digest left out, whatever the order of its keys."""
    rest = {name: value for name, value in record.items() if name != KEY}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def with_digest(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with its digest under `sha256`."""
    return {**record, KEY: record_digest(record)}


def is_as_written(record: Mapping[str, Any]) -> bool:
    """Whether a record is as `with_digest` gave it; one without a digest is of before there were any."""
    return KEY not in record or record[KEY] == record_digest(record)
