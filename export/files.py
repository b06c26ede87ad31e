"""The files of an export: serving.json vouches for them and for itself, changed or exchanged ones are refused."""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from equipoise.common.digest import KEY as DIGEST
from equipoise.common.errors import UserError, format_error
from equipoise.common.hashing import file_hash
from equipoise.common.sealed import SEAL, refuse_changed
from equipoise.common.verified import MEMORY
from equipoise.configs.schema import BackboneConfig
from equipoise.export.serving_record import read_serving_record
from equipoise.modeling.base_config import config_hash, load_model_config
from equipoise.modeling.base_identity import hash_of, weight_hashes

log = logging.getLogger(__name__)

BESIDE = {"serving.json", "README.md", SEAL, MEMORY}
"""Files that vouch for themselves, and the text for people."""
BASE_SETTINGS = ("config.json", "generation_config.json")
"""What stands beside the weights of a base inside an export."""
NOT_LOADED = ("merged/", "onnx/", "alora/", "golden", "check_", "evaluation_")
"""Starts of what only checks and other servers read."""


def files_of(folder: Path, base: str) -> dict[str, str]:
    """The sha256 of all files of an export by path, but those of folders that vouch for themselves (`common.sealed`).

    Args:
        folder: complete but for serving.json.
        base: folder of the base inside the export, whose weights serving.json vouches for by itself.
    """
    sealed = [path.parent for path in folder.rglob(SEAL)]
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in BESIDE]
    own = [path for path in files if not any(path.is_relative_to(each) for each in (*sealed, folder / base))]
    return {path.relative_to(folder).as_posix(): file_hash(path) for path in own}


def make_readable(folder: Path) -> None:
    """Give all files and folders the modes of new ones: some writers make theirs readable to their owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    folder.chmod(0o777 & ~mask)
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def whole_files(folder: Path, record: Mapping[str, Any]) -> list[str]:
    """All files of an export by their paths in it, after each was compared with what vouches for it.

    Raises:
        UserError: one is missing or another one, or the export is of a version that vouches for none.
    """
    if record.get("files") is None:
        raise UserError(f"{folder} was written without hashes of its files: export the run again")
    refuse_changed_files(folder, record, everything=True)
    names = ["serving.json", "README.md", *record["files"]]
    for seal in sorted(folder.rglob(SEAL)):
        refuse_changed(seal.parent, "restore it, or export the run again")
        inside = json.loads(seal.read_text("utf-8"))["files"]
        names += [(seal.parent / name).relative_to(folder).as_posix() for name in (SEAL, *inside)]
    base = record["base"]
    if base["inside_export"]:
        path = folder / base["path"]
        for name, expected in base["weights_sha256"].items():
            if not (path / name).is_file() or file_hash(path / name) != expected:
                raise UserError(f"{path / name} is not the base that was exported: restore it, or export the run again")
        if config_hash(load_model_config(BackboneConfig(path=str(path)))) != base["config_hash"]:
            raise UserError(f"{path} is not the base that was exported: restore it, or export the run again")
        settings = {name for name in BASE_SETTINGS if (path / name).is_file()}
        names += [f"{base['path']}/{name}" for name in (*settings, *base["weights_sha256"])]
    for name in names:
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} is missing: restore it, or export the run again")
    return sorted(names)


def refuse_changed_files(folder: Path, record: Mapping[str, Any], everything: bool = False) -> None:
    """Compare the files of an export with its record; an export of before says nothing of them.

    Args:
        folder: of the export.
        record: its serving.json.
        everything: also what only checks and other servers read.

    Raises:
        UserError: names the first that is missing or another one.
    """
    recorded: Mapping[str, str] | None = record.get("files")
    if recorded is None:
        log.info(f"note: {folder} was written without hashes of its files, so that they are not checked: export again")
        return
    for name, expected in recorded.items():
        path = folder / name
        if name.startswith(NOT_LOADED) and not everything:
            continue
        if not path.is_file():
            raise UserError(f"{path} is missing or broken: export the run again")
        if file_hash(path) != expected:
            raise UserError(f"{path} is not the file that was exported: restore it, or export the run again")


def open_record(folder: Path) -> dict[str, Any]:
    """The content of serving.json, after the files that are loaded were compared with it.

    Raises:
        UserError: the folder is not an export, or a file of it is missing or not the one that was exported.
    """
    record = read_serving_record(folder)
    with readable(folder, record):
        refuse_changed_files(folder, record)
    return record


@contextmanager
def readable(folder: Path, record: Mapping[str, Any]) -> Iterator[None]:
    """Tell in a sentence what in an export cannot be read, unless its record is as it was written: then it is a bug.

    Raises:
        UserError: names the export and what is wrong.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # tokenizers raise nothing more particular
        if DIGEST in record:
            raise
        told = format_error(error)[:200]
        raise UserError(f"{folder} does not hold what its serving.json says ({told}): export the run again") from error


def refuse_other_base(folder: Path, base: Mapping[str, Any], backbone: BackboneConfig) -> None:
    """Compare the base's files with those that the export was made with.

    Raises:
        UserError: names the first that differs.
    """
    recorded: Mapping[str, str] | None = base["weights_sha256"]
    if recorded is None:
        log.info(f"note: {folder} was written without hashes of its base, so that it is not checked: export again")
        return
    # Exports of before name the files of tensors alone, and all that lay in the folder.
    now = {name: sha for name, sha in weight_hashes(backbone).items() if name in recorded or "index" not in name}
    now |= {name: hash_of(backbone.path, name, backbone.revision) for name in recorded if name not in now}
    for name, sha in now.items():
        if recorded.get(name) != sha:
            path = Path(backbone.path) / name
            raise UserError(f"{path} is not the base model that {folder} was trained on: put the right file there")
