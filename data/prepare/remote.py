"""Files of tables that are elsewhere, by URL: whatever fsspec opens (s3://, gs://, hf://datasets/…), read in place."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import duckdb

from equipoise.common.errors import UserError

PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub", "abfs": "adlfs"}
"""Packages that open URLs of a protocol."""


@dataclass(frozen=True)
class Remote:
    """One file elsewhere, with what its path needs to know to be read as one of this machine is."""

    url: str
    system: Any

    @property
    def name(self) -> str:
        """The last part of its URL."""
        return self.url.rsplit("/", 1)[-1]

    def open(self, mode: str) -> BinaryIO:
        """Its bytes."""
        return cast(BinaryIO, self.system.open(self.url, mode))

    def __str__(self) -> str:
        return self.url


def open_system(url: str, place: str) -> Any:
    """The file system of fsspec that opens a URL.

    Raises:
        UserError: its package is missing; `place` names what has the URL.
    """
    protocol = url.split("://", 1)[0].lower()
    try:
        import fsspec

        return fsspec.filesystem(protocol)
    except (ImportError, ValueError) as error:
        package = PACKAGES.get(protocol)
        way_out = f"pip install {package}" if package else "no package is known that reads it: copy the file here"
        raise UserError(
            f"{place} {url} is no path of this machine, and {protocol}:// needs a package: {way_out}"
        ) from error


def short(error: Exception) -> str:
    """What a file system says of a failure, on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def find_remote(
    con: duckdb.DuckDBPyConnection, url: str, place: str, is_table: Callable[[str], object]
) -> tuple[list[Remote], bool]:
    """The files of a URL (a file, a folder or a glob), which the connection can read from here on.

    Args:
        con: is told of the file system.
        url: PROTOCOL://…
        place: what names it, for messages.
        is_table: whether a file of that name can be read as a table.

    Returns:
        The files, and whether the URL is of a single file.

    Raises:
        UserError: the protocol's package is missing, the place cannot be reached, or nothing is there.
    """
    protocol = url.split("://", 1)[0].lower()
    system = open_system(url, place)
    try:
        single = not any(sign in url for sign in "*?[") and system.isfile(url)
        names = [url] if single else system.glob(url) if any(sign in url for sign in "*?[") else system.find(url)
    except Exception as error:  # each file system raises its own kinds
        raise UserError(
            f"{place} {url} cannot be reached ({short(error)}): correct it, or log in to where it is"
        ) from error
    full = [name if "://" in name else f"{protocol}://{name.lstrip('/')}" for name in sorted(names)]
    shown = [name for name in full if single or (is_table(name) and not _hidden(name.removeprefix(url)))]
    if not shown:
        raise UserError(f"{place} {url} is no file, and no folder with *.parquet, *.csv or *.jsonl files: correct it")
    with suppress(duckdb.Error):  # where it is there already, of another table
        con.register_filesystem(system)
    return [Remote(name, system) for name in shown], single


def _hidden(path: str) -> bool:
    return any(part.startswith(("_", ".")) for part in path.split("/"))
