"""Which folders are compared, and which of them cannot be read: those are told, never dropped."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from equipoise.common.errors import UserError
from equipoise.evaluation.compare.run_record import RunRecord, read_run

MARKS = ("config.yaml", "metrics.jsonl", "summary.json")
"""A folder with one of these files is a run, whole or broken."""


@dataclass(frozen=True)
class BrokenRun:
    """A folder that cannot be compared, and why."""

    folder: Path
    reason: str


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """The run folders among and below the given ones, in their order, each once.

    Raises:
        UserError: a folder does not exist.
    """
    found: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder: name run folders, or a folder of runs")
        for run in [folder] if _is_run(folder) else list(_below(folder)) or [folder]:
            found.setdefault(run.resolve(), run)
    return list(found.values())


def read_runs(
    folders: Sequence[Path],
    most_records: int | None = None,
    reduce: Callable[[RunRecord], RunRecord] = lambda record: record,
) -> tuple[list[RunRecord], list[BrokenRun]]:
    """The runs that can be read, and those that cannot with the reason.

    Args:
        folders: of single runs.
        most_records: of each history; see `read_run`.
        reduce: called with each record at once, so that hundreds of histories need not be held.
    """
    records, broken = [], []
    for folder in folders:
        try:
            records.append(reduce(read_run(folder, most_records)))
        except UserError as error:
            broken.append(BrokenRun(folder, str(error)))
    return records, broken


def in_group(records: Sequence[RunRecord], group: str) -> list[RunRecord]:
    """The runs of a group.

    Raises:
        UserError: there is none.
    """
    found = [record for record in records if record.group == group]
    if not found:
        known = ", ".join(sorted({record.group for record in records if record.group})) or "none"
        raise UserError(f"--group {group}: no run has it: name one of these groups ({known}), or correct --runs")
    return found


def _is_run(folder: Path) -> bool:
    return any((folder / mark).is_file() for mark in MARKS)


def _below(folder: Path) -> Iterator[Path]:
    """Run folders below one, by name; what lies inside a run is not searched."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
            path = folder / entry.name
            if _is_run(path):
                yield path
            else:
                yield from _below(path)
