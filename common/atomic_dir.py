"""Folders that appear whole or not at all."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its place when the block ends well, and is gone otherwise."""
    mark = f"{os.getpid()}-{secrets.token_hex(4)}"
    building = folder.with_name(f"{folder.name}.tmp-{mark}")
    building.mkdir(parents=True)
    try:
        yield building
        if folder.exists():
            older = folder.with_name(f"{folder.name}.tmp-old-{mark}")
            folder.rename(older)
            try:
                building.rename(folder)
            except OSError:
                older.rename(folder)
                raise
            shutil.rmtree(older)
        else:
            building.rename(folder)
    finally:
        if building.exists():
            shutil.rmtree(building)
