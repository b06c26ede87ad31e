"""Reads what W&B wrote for an offline run: a log of records in LevelDB's form, each a protobuf message."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2 as messages

HEADER, BLOCK, RECORD_HEADER = 7, 32_768, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file, in order."""
    content = path.read_bytes()
    assert content[:4] == b":W&B", "no W&B file"
    place, parts = HEADER, []
    while place + RECORD_HEADER <= len(content):
        left = BLOCK - place % BLOCK
        if left < RECORD_HEADER:
            place += left
            continue
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        parts.append(content[place + RECORD_HEADER : place + RECORD_HEADER + size])
        place += RECORD_HEADER + size
        if kind in (FULL, LAST):
            record = messages.Record()
            record.ParseFromString(b"".join(parts))
            parts = []
            yield record
        else:
            assert kind in (FIRST, MIDDLE)


def key_of(item: Any) -> str:
    """The name of an entry of a history, summary or config record."""
    return item.key or ".".join(item.nested_key)
