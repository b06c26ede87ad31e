"""The record of a run from what W&B wrote offline, without the run folder: the same as `read_run` gives."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from equipoise.common.errors import UserError
from equipoise.evaluation.compare.run_record import SPLITS, RunRecord, with_defaults
from equipoise.evaluation.compare.wandb_file import key_of, records
from equipoise.train.trackers.wandb_run import ENVIRONMENT, EVALUATION, FRONT, STEP

FILES = "run-*.wandb"


@dataclass
class _Told:
    """What the files of one W&B run say, later ones over earlier ones."""

    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)


def read_wandb_runs(folders: Sequence[Path]) -> list[RunRecord]:
    """The runs of all offline W&B files in and below some folders: training and evaluation of a run are one run.

    Raises:
        UserError: a folder does not exist, holds no such file, or a file is no W&B file.
    """
    told: dict[str, _Told] = {}
    for folder in folders:
        files = sorted(folder.rglob(FILES)) if folder.is_dir() else []
        if not files:
            raise UserError(f"{folder} holds no offline W&B run: name a run folder, or its wandb/offline-run-…")
        for path in files:
            _read(path, told)
    return [_record(each) for each in told.values() if each.config]


def _read(path: Path, told: dict[str, _Told]) -> None:
    mine: _Told | None = None
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            mine = told.setdefault(record.run.run_id, _Told(path.parent))
            _update(mine.config, record.run.config.update)
        elif mine is None:
            continue
        elif kind == "config":
            _update(mine.config, record.config.update)
        elif kind == "summary":
            _update(mine.summary, record.summary.update)
        elif kind == "history":
            values = {key_of(item): _plain(item.value_json) for item in record.history.item}
            if STEP in values:
                mine.history.append(values)


def _update(target: dict[str, Any], updates: Any) -> None:
    """Put the entries of a config or summary record into a nested dict."""
    for update in updates:
        *parents, last = list(update.nested_key) or [update.key]
        place = target
        for parent in parents:
            if not isinstance(place.get(parent), dict):
                place[parent] = {}
            place = place[parent]
        place[last] = _plain(update.value_json)


def _plain(text: str) -> Any:
    """A value as the run folder holds it: not finite is null."""
    value = json.loads(text)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _record(told: _Told) -> RunRecord:
    config = with_defaults({key: value for key, value in told.config.items() if key not in ("_wandb", ENVIRONMENT)})
    history = []
    for values in sorted(told.history, key=lambda values: values[STEP]):
        numbers = {key: value for key, value in values.items() if not key.startswith("_") and key != STEP}
        history.append({"step": int(values[STEP]), "seconds": values.get("_runtime"), **numbers})
    curves = {key for values in told.history for key in values}
    own = {key: value for key, value in told.summary.items() if key not in curves and not key.startswith("_")}
    evaluations = own.pop(EVALUATION, {})
    own.pop(FRONT, None)
    return RunRecord(
        folder=told.folder,
        name=str(config.get("name", told.folder.name)),
        group=(config.get("wandb") or {}).get("group"),
        config=config,
        summary=own,
        history=history,
        evaluations={split: evaluations[split] for split in SPLITS if split in evaluations},
    )
