"""Files and folders that are written completely or not at all."""

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary name next to `path` that is renamed to it when the block ends well, and removed otherwise."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_dir(folder: Path, keep: Callable[[Path], bool] = lambda _: False) -> Iterator[Path]:
    """A temporary folder next to `folder` that is renamed to it when the block ends well, and removed otherwise.

    Args:
        folder: where it will be; its parents are made. One that is there already is replaced.
        keep: asked about a folder that is there at the end; if true, that one stays and the new one is removed.
    """
    building = folder.with_name(f"{folder.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")
    building.mkdir(parents=True)
    try:
        yield building
        if not (folder.exists() and keep(folder)):
            replace_dir(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def replace_dir(complete: Path, folder: Path) -> None:
    """Rename a complete folder to `folder`; what was there is removed, or comes back if that fails."""
    if not folder.exists():
        complete.rename(folder)
        return
    older = folder.with_name(f"{folder.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}-old")
    folder.rename(older)
    try:
        complete.rename(folder)
    except OSError:
        older.rename(folder)
        raise
    shutil.rmtree(older)
