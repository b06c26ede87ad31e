"""Reads what W&B wrote for an offline run: a log of records in LevelDB's form, each a protobuf message.

W&B's client has no reader that Python may call; the messages are those of the client itself.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from equipoise.common.errors import UserError

MAGIC = b":W&B"

HEADER, BLOCK, RECORD_HEADER = 7, 32_768, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file, in order; one that a kill cut short ends them.

    Raises:
        UserError: it is no such file.
    """
    from wandb.proto import wandb_internal_pb2  # a second, which only those who read such files wait for

    messages: Any = wandb_internal_pb2  # made at run time, unknown to the type checker

    content = path.read_bytes()
    if content[: len(MAGIC)] != MAGIC:
        raise UserError(f"{path} is no file of an offline W&B run: name the folder wandb/offline-run-… of a run")
    place = HEADER
    parts: list[bytes] = []
    while place + RECORD_HEADER <= len(content):
        left = BLOCK - place % BLOCK
        if left < RECORD_HEADER:
            place += left
            continue
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        if place + RECORD_HEADER + size > len(content) or kind not in (FULL, FIRST, MIDDLE, LAST):
            return
        parts.append(content[place + RECORD_HEADER : place + RECORD_HEADER + size])
        place += RECORD_HEADER + size
        if kind in (FULL, LAST):
            record = messages.Record()
            record.ParseFromString(b"".join(parts))
            parts = []
            yield record


def key_of(item: Any) -> str:
    """The name of an entry of a history, summary or config record."""
    return item.key or ".".join(item.nested_key)
