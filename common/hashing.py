"""The hash by which files are recognised."""

import hashlib
from pathlib import Path


def file_hash(path: Path) -> str:
    """The sha256 of a file as hexadecimal digits, read in blocks."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
