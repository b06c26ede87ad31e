"""Which run folders are compared and what each says of its run, read without a model, a tracker or a network."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from equipoise.common.errors import UserError
from equipoise.common.yaml_file import read_yaml
from equipoise.configs.schema import RunConfig

SPLITS = ("valid", "test")


@dataclass(frozen=True)
class RunRecord:
    """A run, as far as its folder tells.

    Attributes:
        folder: of the run.
        name: of the config.
        group: `wandb.group` of the config, which groups runs without W&B too.
        config: the resolved config, nested, as in config.yaml.
        summary: summary.json (finished, steps, seconds, processes, …); empty for a run that was killed.
        history: records of metrics.jsonl in the order of their steps; each has `step`.
        evaluations: split → evaluation_SPLIT.json.
    """

    folder: Path
    name: str
    group: str | None
    config: dict[str, Any]
    summary: dict[str, Any]
    history: list[dict[str, Any]]
    evaluations: dict[str, dict[str, Any]]

    @property
    def finished(self) -> bool:
        """Whether it trained to its end."""
        return bool(self.summary.get("finished"))

    @property
    def project(self) -> str | None:
        """`wandb.project` of its config, which tells projects apart without W&B too."""
        return (self.config.get("wandb") or {}).get("project")

    @property
    def steps(self) -> int:
        """Optimizer steps that it is known to have made."""
        return int(self.summary.get("steps") or (self.history[-1]["step"] if self.history else 0))

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of its objectives, in the order of the config."""
        return tuple(self.config.get("objectives") or {})


def read_run(folder: Path, most_records: int | None = None) -> RunRecord:
    """The run in a folder; files that are not there yet leave their part empty.

    Args:
        folder: that `equipoise train` wrote.
        most_records: about how many training records of the history are kept, evenly spread with the last one among
            them (validation records are all kept); None keeps all.

    Raises:
        UserError: the folder holds no run, or one of its files cannot be read.
    """
    config = _config(folder)
    evaluations = {}
    for split in SPLITS:
        evaluation = json_object(
            folder / f"evaluation_{split}.json", f"run `equipoise evaluate {folder} --split {split}` again"
        )
        if evaluation is not None:
            evaluations[split] = evaluation
    summary = json_object(folder / "summary.json", f"train {folder} again") or {}
    wandb = config.get("wandb") or {}
    return RunRecord(
        folder=folder,
        name=str(config.get("name", folder.name)),
        group=wandb.get("group"),
        config=config,
        summary=summary,
        history=_history(folder / "metrics.jsonl", most_records),
        evaluations=evaluations,
    )


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.yaml"
    if not path.is_file():
        raise UserError(f"{folder} holds no run ({path.name} is missing): name the folder that `equipoise train` wrote")
    return with_defaults(read_yaml(path, "train again with --overwrite"))


def with_defaults(config: dict[str, Any]) -> dict[str, Any]:
    """The config with today's defaults for settings that it does not know, so that older runs compare with newer ones.

    One that the schema of today refuses is compared as it was written.
    """
    try:
        return RunConfig.model_validate(config).model_dump(mode="json")
    except ValidationError:
        return config


def json_object(path: Path, way_out: str) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is no file.

    Raises:
        UserError: it cannot be read, with the way out.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): {way_out}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no JSON object: {way_out}")
    return value


def _history(path: Path, most_records: int | None) -> list[dict[str, Any]]:
    """The records of a file by step; the cut last line of a killed run is passed over."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error}): train again with --overwrite") from error
    if most_records is not None and len(lines) > most_records:
        every = -(-len(lines) // most_records)
        last = len(lines) - 1
        lines = [line for n, line in enumerate(lines) if (last - n) % every == 0 or b'"valid/' in line]
    records = []
    for number, line in enumerate(lines):
        try:
            record = json.loads(line)
            records.append((int(record["step"]), number, record))
        except (ValueError, KeyError, TypeError) as error:
            if number < len(lines) - 1:
                raise UserError(f"{path} holds a line that is no record: train again with --overwrite") from error
    return [record for *_, record in sorted(records, key=lambda row: row[:2])]


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
    by_path: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder: name run folders, or a folder of runs")
        for run in [folder] if _is_run(folder) else list(_below(folder)) or [folder]:
            by_path.setdefault(run.resolve(), run)
    return list(by_path.values())


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
    members = [record for record in records if record.group == group]
    if not members:
        known = ", ".join(sorted({record.group for record in records if record.group})) or "none"
        raise UserError(f"--group {group}: no run has it: name one of these groups ({known}), or correct --runs")
    return members


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
