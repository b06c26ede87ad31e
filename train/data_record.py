"""What a run folder keeps of the data it was trained on: `data.json`, from the manifest of the prepared folder."""

import json
import logging
from pathlib import Path
from typing import Any

from equipoise.common.atomic import atomic_write
from equipoise.common.errors import UserError
from equipoise.data.manifest import Manifest

log = logging.getLogger(__name__)

FILE_NAME = "data.json"
KEPT = {"source", "created", "counts", "splits", "dropped", "notes", "hashes"}


def write_data_record(manifest: Manifest, folder: Path, run: Path) -> None:
    """Write the counts, splits, notes and hashes of a prepared folder into the run folder, whole or not at all."""
    record = {"folder": str(folder), **manifest.model_dump(mode="json", include=KEPT)}
    with atomic_write(run / FILE_NAME) as partial:
        partial.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_data_record(run: Path) -> dict[str, Any] | None:
    """What a run folder keeps of its data; None where it keeps nothing.

    Raises:
        UserError: the file is damaged.
    """
    path = run / FILE_NAME
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: restore it, or train again") from error


def changed_file(record: dict[str, Any], manifest: Manifest) -> str | None:
    """The first file of the prepared data that is not as it was in training; None where all are."""
    before, now = record["hashes"], manifest.hashes
    return next((name for name in sorted({*before, *now}) if before.get(name) != now.get(name)), None)


def refuse_other_data(run: Path, manifest: Manifest, folder: Path, resumes: bool = False) -> None:
    """Refuse data that were prepared anew after a run was trained on them; say where they are of another folder.

    Args:
        run: the run folder.
        manifest: of the data as they are now.
        folder: where they lie.
        resumes: whether training goes on, for which they must be the same wherever they lie.

    Raises:
        UserError: names the first file that differs.
    """
    record = read_data_record(run)
    if record is None or not record.get("hashes"):
        log.info(f"note: {run} does not say on which data it was trained, so that is not checked")
        return
    name = changed_file(record, manifest)
    if name is None:
        return
    if resumes:
        raise UserError(
            f"{run} was trained on other data than {folder} holds now ({name} differs): prepare those data again, or "
            "start anew with --overwrite"
        )
    if Path(record["folder"]).resolve() == folder.resolve():
        raise UserError(
            f"{folder} was prepared anew after {run} was trained on it ({name} differs): prepare the former data "
            "again, or prepare these into another folder and name it with data.folder=FOLDER"
        )
    log.warning(f"{run} was trained on the data of {record['folder']}; {folder} holds others ({name} differs)")
