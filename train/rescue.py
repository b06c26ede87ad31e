"""What cannot be written, on a full or read-only disk, is said in one sentence, and trained adapters are not lost."""

import errno
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError

from equipoise.common.errors import UserError
from equipoise.modeling.adapter_store import AdapterInfo, save_adapters

WRITING = ("PytorchStreamWriter", "inline_container", "basic_ios", "unexpected pos")
"""In torch's RuntimeErrors that mean that a file could not be written."""


def why_not_written(error: Exception) -> str | None:
    """In one line why a file could not be written; None of an error that has another cause."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, SafetensorError):
        return str(error).splitlines()[0]
    if isinstance(error, RuntimeError) and any(word in str(error) for word in WRITING):
        return "the disk is full, or takes no more"
    return None


def is_full_or_read_only(error: Exception) -> bool:
    """Whether an error says that a disk takes no more, whatever was being done."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    if isinstance(error, SafetensorError):
        return any(word in str(error) for word in ("No space left", "Read-only", "quota"))
    return isinstance(error, RuntimeError) and any(word in str(error) for word in WRITING)


@contextmanager
def said_if_full(run: Path) -> Iterator[None]:
    """Turn what a full or read-only disk does to a training into a sentence.

    Raises:
        UserError: names the file, if the error does.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if not is_full_or_read_only(error):
            raise
        what = getattr(error, "filename", None) or run
        way_out = "free space, then go on with --resume, or anew where there is no checkpoint"
        raise UserError(f"{what} cannot be written ({why_not_written(error)}): {way_out}") from error


@contextmanager
def said_if_not_written(what: str, way_out: str) -> Iterator[None]:
    """Turn a failure to write in the block into a sentence: `what`, the reason and the `way_out`.

    Raises:
        UserError: something could not be written.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = why_not_written(error)
        if reason is None:
            raise
        raise UserError(f"{what} cannot be written ({reason}): {way_out}") from error


def save_or_rescue(folder: Path, tensors: Mapping[str, torch.Tensor], info: AdapterInfo) -> None:
    """Write trained adapters to `folder`, or where that fails to a temporary folder, which is named.

    Raises:
        UserError: `folder` cannot be written.
    """
    try:
        save_adapters(folder, tensors, info)
    except (OSError, SafetensorError) as error:
        reason = why_not_written(error)
        rescue = Path(tempfile.mkdtemp(prefix="equipoise-adapters-"))
        neither = f"neither {folder} ({reason}) nor {rescue}"
        with said_if_not_written(neither, "free space and go on from the last checkpoint with --resume"):
            save_adapters(rescue, tensors, info)
        raise UserError(
            f"{folder} cannot be written ({reason}); what was trained is safe in {rescue}: free space and move its "
            "files there"
        ) from error
