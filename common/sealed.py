"""Folders that vouch for their files: `sealed.json` holds the hash of each, and of itself."""

import json
from collections.abc import Iterable
from pathlib import Path

from equipoise.common.atomic import atomic_write
from equipoise.common.digest import is_as_written, with_digest
from equipoise.common.errors import UserError
from equipoise.common.hashing import file_hash
from equipoise.common.verified import MEMORY, first_changed

SEAL = "sealed.json"


def seal(folder: Path, names: Iterable[str] | None = None) -> None:
    """Write down the hashes of a folder's files.

    Args:
        folder: complete.
        names: files that were written since it was sealed; None: all that are there.
    """
    before: dict[str, str] = {}
    if names is None:
        files = (path for path in sorted(folder.rglob("*")) if path.is_file())
        names = [path.relative_to(folder).as_posix() for path in files if path.name not in (SEAL, MEMORY)]
    elif (folder / SEAL).is_file():
        before = json.loads((folder / SEAL).read_text("utf-8"))["files"]
    record = with_digest({"files": before | {name: file_hash(folder / name) for name in names}})
    with atomic_write(folder / SEAL) as partial:
        partial.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


def refuse_changed(folder: Path, way_out: str) -> None:
    """Compare the files of a sealed folder with what was written; one of before is not sealed.

    Args:
        folder: written by this project.
        way_out: ends the sentence.

    Raises:
        UserError: names the file that is missing, or not as it was written.
    """
    path = folder / SEAL
    if not path.is_file():
        return
    try:
        record = json.loads(path.read_text("utf-8"))
        if not is_as_written(record):
            raise ValueError("its hash differs")
        changed = first_changed(folder, record["files"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not as it was written: {way_out}") from error
    if changed is not None:
        raise UserError(f"{folder / changed} is not as it was written: {way_out}")
