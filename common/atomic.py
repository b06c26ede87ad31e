"""Files and folders that are written completely or not at all.

What a killed process has left beside them is removed by the next one that writes the same file or folder.
"""

import hashlib
import os
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from equipoise.common.errors import UserError

HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]
"""In the names of unfinished folders: elsewhere nobody knows whether the process of that number still runs."""

_seen: set[Path] = set()
"""Folders in which this process has looked for what others left of a file."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary name next to `path` that is renamed to it when the block ends well, and removed otherwise."""
    if path.parent not in _seen:  # once: a folder may hold very many files
        _seen.add(path.parent)
        remove_leftovers(path)
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
    remove_leftovers(folder)
    building = folder.with_name(_unfinished(folder))
    building.mkdir(parents=True)
    try:
        yield building
        if not (folder.exists() and keep(folder)):
            replace_dir(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def refuse_unwritable(place: Path, folder: Path, name: str) -> None:
    """Refuse a place where nothing can be written, before work is spent on what is to be there.

    Args:
        place: what is to be written.
        folder: in which its first files will be made, the place itself or its parent; it may not be there yet.
        name: of the option or setting.

    Raises:
        UserError: names the place and the reason.
    """
    whole = folder.absolute()
    nearest = next(each for each in (whole, *whole.parents) if each.exists())
    try:
        with tempfile.TemporaryDirectory(prefix=".", dir=nearest):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{name}: {place} cannot be written ({reason}): name another place") from error


def replace_dir(complete: Path, folder: Path) -> None:
    """Rename a complete folder to `folder`; what was there is removed, or comes back if that fails."""
    if not folder.exists():
        complete.rename(folder)
        return
    older = folder.with_name(f"{_unfinished(folder)}-old")
    folder.rename(older)
    try:
        complete.rename(folder)
    except OSError:
        older.rename(folder)
        raise
    shutil.rmtree(older)


def through_to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _unfinished(folder: Path) -> str:
    """A new name next to a folder, which tells whose it is."""
    return f"{folder.name}.tmp-{os.getpid()}-{HOST}-{secrets.token_hex(4)}"


def remove_leftovers(path: Path) -> None:
    """Remove what processes that no longer run left beside a file or folder, while they wrote it.

    A folder that was moved aside, and whose successor never got its name, gets its own back.
    """
    name = re.escape(path.name)
    folders = re.compile(rf"{name}\.tmp-(?P<process>\d+)(-(?P<host>[0-9a-f]{{6}}))?(-[0-9a-f]{{8}})?(?P<old>-old)?")
    files = re.compile(rf"\.{name}\.(?P<process>\d+)\.partial")
    try:
        with os.scandir(path.parent) as entries:
            beside = [(Path(each.path), folders.fullmatch(each.name) or files.fullmatch(each.name)) for each in entries]
    except OSError:  # there is no such folder yet
        return
    for left, match in sorted(((left, match) for left, match in beside if match), key=lambda pair: pair[0]):
        parts = match.groupdict()
        if parts.get("host") not in (None, HOST) or _runs(int(parts["process"])):
            continue
        if parts.get("old") and not path.exists():
            left.rename(path)
        elif left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    """Whether a process of this number runs on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
