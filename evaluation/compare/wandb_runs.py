"""Runs from what W&B wrote offline, without their folders: logs in LevelDB's form, each record a protobuf message."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from equipoise.common.errors import UserError
from equipoise.evaluation.compare.run_records import SPLITS, RunRecord, with_defaults
from equipoise.train.trackers.wandb_run import ENVIRONMENT, EVALUATION, FRONT, STEP

MAGIC = b":W&B"

HEADER, BLOCK, RECORD_HEADER = 7, 32_768, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file, in order; one that a kill cut short ends them.

    Raises:
        UserError: it is no such file.
    """
    from wandb.proto import wandb_internal_pb2  # a second, which only those who read such files wait for

    messages: Any = wandb_internal_pb2  # made at run time, unknown to the type checker

    content = path.read_bytes()
    if content[: len(MAGIC)] != MAGIC:
        raise UserError(f"{path} is no file of an offline W&B run: name the folder wandb/offline-run-… of a run")
    offset = HEADER
    parts: list[bytes] = []
    while offset + RECORD_HEADER <= len(content):
        left = BLOCK - offset % BLOCK
        if left < RECORD_HEADER:
            offset += left
            continue
        size, kind = int.from_bytes(content[offset + 4 : offset + 6], "little"), content[offset + 6]
        if offset + RECORD_HEADER + size > len(content) or kind not in (FULL, FIRST, MIDDLE, LAST):
            return
        parts.append(content[offset + RECORD_HEADER : offset + RECORD_HEADER + size])
        offset += RECORD_HEADER + size
        if kind in (FULL, LAST):
            record = messages.Record()
            record.ParseFromString(b"".join(parts))
            parts = []
            yield record


def key_of(item: Any) -> str:
    """The name of an entry of a history, summary or config record."""
    return item.key or ".".join(item.nested_key)


FILES = "run-*.wandb"


@dataclass
class RunLog:
    """What W&B has of one run."""

    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)


def read_wandb_runs(folders: Sequence[Path]) -> list[RunRecord]:
    """The runs of all offline W&B files in and below some folders: training and evaluation of a run are one run.

    Raises:
        UserError: a folder does not exist, holds no such file, or a file is no W&B file.
    """
    logs: dict[str, RunLog] = {}
    for folder in folders:
        files = sorted(folder.rglob(FILES)) if folder.is_dir() else []
        if not files:
            raise UserError(f"{folder} holds no offline W&B run: name a run folder, or its wandb/offline-run-…")
        for path in files:
            _read(path, logs)
    return [run_record(log) for log in logs.values() if log.config]


def _read(path: Path, logs: dict[str, RunLog]) -> None:
    log: RunLog | None = None
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            log = logs.setdefault(record.run.run_id, RunLog(path.parent))
            _update(log.config, record.run.config.update)
        elif log is None:
            continue
        elif kind == "config":
            _update(log.config, record.config.update)
        elif kind == "summary":
            _update(log.summary, record.summary.update)
        elif kind == "history":
            values = {key_of(item): _plain(item.value_json) for item in record.history.item}
            if STEP in values:
                log.history.append(values)


def _update(target: dict[str, Any], updates: Any) -> None:
    """Put the entries of a config or summary record into a nested dict."""
    for update in updates:
        *parents, last = list(update.nested_key) or [update.key]
        section = target
        for parent in parents:
            if not isinstance(section.get(parent), dict):
                section[parent] = {}
            section = section[parent]
        section[last] = _plain(update.value_json)


def _plain(text: str) -> Any:
    """A value as the run folder holds it: not finite is null."""
    value = json.loads(text)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def run_record(log: RunLog) -> RunRecord:
    """The run as its folder would tell it."""
    config = with_defaults({key: value for key, value in log.config.items() if key not in ("_wandb", ENVIRONMENT)})
    history = []
    for values in sorted(log.history, key=lambda values: values[STEP]):
        numbers = {key: value for key, value in values.items() if not key.startswith("_") and key != STEP}
        history.append({"step": int(values[STEP]), "seconds": values.get("_runtime"), **numbers})
    curves = {key for values in log.history for key in values}
    own = {key: value for key, value in log.summary.items() if key not in curves and not key.startswith("_")}
    evaluations = own.pop(EVALUATION, {})
    own.pop(FRONT, None)
    return RunRecord(
        folder=log.folder,
        name=str(config.get("name", log.folder.name)),
        group=(config.get("wandb") or {}).get("group"),
        config=config,
        summary=own,
        history=history,
        evaluations={split: evaluations[split] for split in SPLITS if split in evaluations},
    )
