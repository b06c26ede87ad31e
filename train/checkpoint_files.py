"""The files of a checkpoint: written through to the disk before the folder gets its name, and checked at reading."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from equipoise.common.atomic import through_to_disk
from equipoise.common.digest import KEY, is_as_written, with_digest
from equipoise.common.errors import UserError
from equipoise.common.hashing import file_hash

log = logging.getLogger(__name__)

STATE = "state.json"
PREFIX = "step-"


def checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    found = (run / "checkpoints").glob(f"{PREFIX}*[0-9]")
    return sorted((path for path in found if path.name.removeprefix(PREFIX).isdigit()), key=step_of)


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where the checkpoint of an optimizer step lies."""
    return run / "checkpoints" / f"{PREFIX}{step:06d}"


def step_of(folder: Path) -> int:
    """The optimizer step of a checkpoint, by its name."""
    return int(folder.name.removeprefix(PREFIX))


def seal(folder: Path, state: Mapping[str, Any]) -> None:
    """Write `state.json` with the hashes of all files, its own included, and everything through to the disk."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    hashes = {path.relative_to(folder).as_posix(): file_hash(path) for path in files}
    whole = {**state, "files": hashes}
    (folder / STATE).write_text(json.dumps(with_digest(whole), indent=2), "utf-8")
    folders = {folder, *(path for path in folder.rglob("*") if path.is_dir())}
    for path in (*files, folder / STATE, *sorted(folders)):
        through_to_disk(path)


def read_state(folder: Path) -> dict[str, Any]:
    """What a checkpoint's record says, after all of its files were compared with it.

    Raises:
        UserError: a file is missing, is not the one that was written, or is none that the record vouches for.
    """
    advice = f"remove {folder} to resume from the checkpoint before it"
    try:
        state = json.loads((folder / STATE).read_text("utf-8"))
        files: Mapping[str, str | int] = state["files"]
        if not is_as_written(state):
            raise ValueError("its hash differs")
        for name, expected in files.items():
            _compare(folder / name, expected, advice)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        broken = f"{folder / STATE} is missing or broken, so this checkpoint is damaged"
        raise UserError(f"{broken}: {advice}") from error
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    strange = sorted(present - {*files, STATE})
    if strange:
        raise UserError(f"{folder / strange[0]} is no file that this checkpoint was written with: {advice}")
    if KEY not in state:
        log.info(f"note: {folder} was written without hashes of its files, so that their sizes alone are checked")
    return state


def _compare(file: Path, expected: str | int, advice: str) -> None:
    """Compare a file with its recorded sha256, or its size in checkpoints of before."""
    if not file.is_file():
        raise UserError(f"{file} is missing or cut short, so this checkpoint is damaged: {advice}")
    if isinstance(expected, int):
        if file.stat().st_size != expected:
            raise UserError(f"{file} is missing or cut short, so this checkpoint is damaged: {advice}")
    elif file_hash(file) != expected:
        raise UserError(f"{file} is not as it was written, so this checkpoint is damaged: {advice}")


def last_whole(run: Path) -> Path:
    """The latest checkpoint of a run whose files are all as they were written; each damaged one is told.

    Raises:
        UserError: there is none.
    """
    damaged = []
    for folder in reversed(checkpoints(run)):
        try:
            read_state(folder)
        except UserError as error:
            damaged.append(str(error))
            log.warning(f"passed over: {str(error).partition(': remove ')[0]}")
            continue
        return folder
    raise UserError(f"{run} has no checkpoint that is whole ({damaged[0]}): start anew with --overwrite")


def last_good(run: Path, until: int) -> Path | None:
    """The latest checkpoint up to a step before which everything was finite, as its record says; None without one."""
    for folder in reversed(checkpoints(run)):
        try:
            good = json.loads((folder / STATE).read_text("utf-8")).get("good", True)
        except (OSError, ValueError, AttributeError):
            continue
        if good and step_of(folder) <= until:
            return folder
    return None


def superfluous(run: Path, step: int, keep: int) -> list[Path]:
    """The checkpoints to drop after that of `step`: all but the latest `keep` and the last good one.

    Those of later steps, which a run that went back has left, go too: they are of another course.
    """
    known = checkpoints(run)
    until = [folder for folder in known if step_of(folder) <= step]
    kept = {*until[-keep:], last_good(run, step)}
    return [folder for folder in known if folder not in kept]
