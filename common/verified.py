"""Whether the files of a folder are those that were written: each is read once, then known by its size and times."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from equipoise.common.atomic import atomic_write
from equipoise.common.hashing import file_hash

MEMORY = ".verified.json"
"""In the folder itself: which files had their hashes when they were looked at last. It may be deleted at any time."""
SETTLED_NS = 2_000_000_000
"""A file that was written less than this before may change again within one tick of the clock: it is not remembered."""


def first_changed(folder: Path, hashes: Mapping[str, str]) -> str | None:
    """The first file that is missing, or whose content is not as it was written; None where all are.

    A file is read where its size, times or inode are others than when it was read last, so that opening a large folder
    costs reading it once on each machine. A folder that cannot be written to is read every time.

    Args:
        folder: where they lie.
        hashes: by path in the folder the sha256 of each.
    """
    known = _remembered(folder)
    seen: dict[str, Any] = {}
    for name, expected in hashes.items():
        try:
            mark: list[int | str] = [*_mark(folder / name), expected]
            if known.get(name) != mark and file_hash(folder / name) != expected:
                return name
        except OSError:
            return name
        if time.time_ns() - int(mark[2]) > SETTLED_NS:
            seen[name] = mark
    if any(known.get(name) != mark for name, mark in seen.items()):
        _remember(folder, known | seen)
    return None


def _mark(path: Path) -> tuple[int, int, int, int]:
    """Size, time of the last change of the content and of the file's entry (no program sets that one), inode."""
    about = path.stat()
    return about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino


def _remembered(folder: Path) -> dict[str, Any]:
    try:
        known = json.loads((folder / MEMORY).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _remember(folder: Path, known: Mapping[str, Any]) -> None:
    try:
        with atomic_write(folder / MEMORY) as partial:
            partial.write_text(json.dumps(known), "utf-8")
    except OSError:  # a folder that is read-only: it is read again next time
        pass
