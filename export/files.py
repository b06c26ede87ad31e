"""The files of an export that decide its scores: serving.json vouches for them, exchanged ones are refused."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from equipoise.common.errors import UserError
from equipoise.common.hashing import file_hash
from equipoise.configs.schema import BackboneConfig
from equipoise.modeling.base_identity import hash_of, weight_hashes

log = logging.getLogger(__name__)


def files_of(folder: Path, objectives: Iterable[str], tokenizer: str) -> dict[str, str]:
    """The sha256 of all tensors in the objectives' folders and of the tokenizer's files, by path in the export."""
    files = [file for name in objectives for file in (folder / name).glob("*.safetensors")]
    files += [file for file in (folder / tokenizer).iterdir() if file.is_file()]
    return {file.relative_to(folder).as_posix(): file_hash(file) for file in sorted(files)}


def refuse_changed_files(folder: Path, record: Mapping[str, Any]) -> None:
    """Compare the files of an export with its record; an export of before says nothing of them.

    Raises:
        UserError: names the first that is missing or another one.
    """
    recorded: Mapping[str, str] | None = record.get("files")
    if recorded is None:
        log.info(f"note: {folder} was written without hashes of its files, so that they are not checked: export again")
        return
    for name, expected in recorded.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing or broken: export the run again")
        if file_hash(path) != expected:
            raise UserError(f"{path} is not the file that was exported: restore it, or export the run again")


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
