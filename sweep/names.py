"""Names of runs, made of what differs: stable, readable, and fit for folders."""

import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any

LONGEST_VALUE = 32
LONGEST_NAME = 120


def short_keys(keys: Iterable[str]) -> dict[str, str]:
    """Each dotted key with the shortest end of it that no other key shares: `train.lr` → `lr`."""
    keys = list(dict.fromkeys(keys))
    ends = {key: [".".join(key.split(".")[-n:]) for n in range(1, key.count(".") + 2)] for key in keys}
    return {
        key: next((end for end in ends[key] if not any(end in ends[other] for other in keys if other != key)), key)
        for key in keys
    }


def value_text(value: Any) -> str:
    """A value as part of a name; what is long, or no single value, as the start of its hash."""
    if isinstance(value, str):
        text = re.sub(r"[^A-Za-z0-9._+-]+", "-", value).strip("-")
        return text if text and len(text) <= LONGEST_VALUE else f"{text[-24:]}-{digest(value)}".strip("-")
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    return digest(value)


def join_name(parts: Iterable[str]) -> str:
    """The name of a run from its parts; one that is too long ends in its hash."""
    name = "_".join(parts)
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 9]}-{digest(name)}"


def digest(value: Any) -> str:
    """Eight hexadecimal digits of the hash of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:8]
