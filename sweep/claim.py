"""Which runs of a plan are still to do, and their folders made ready; what would mix two runs is refused."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from equipoise.common.errors import UserError
from equipoise.common.process import usable_cores
from equipoise.common.yaml_file import read_yaml
from equipoise.configs.load import save_config
from equipoise.configs.schema import RunConfig
from equipoise.sweep.config import SweepConfig
from equipoise.sweep.plan import PlannedRun
from equipoise.sweep.record import (
    CONFIG,
    LOCK,
    RECORD,
    JobRecord,
    LockedError,
    data_mark,
    evaluation,
    is_trained,
    locked,
    read_record,
)

TRACKING = ("wandb", "tensorboard", "mlflow")  # sections that change what is told of a run, not the run


@dataclass
class Claim:
    """The runs of a plan by what is to be done with them."""

    todo: list[PlannedRun] = field(default_factory=list)
    finished: list[PlannedRun] = field(default_factory=list)
    failed: list[PlannedRun] = field(default_factory=list)


def claim(sweep: SweepConfig, plan: list[PlannedRun], retry_failed: bool = False) -> Claim:
    """Sort the runs by what their folders hold; nothing is written.

    Args:
        sweep: as it is configured now.
        plan: its runs, or some of them.
        retry_failed: count failed runs among those to do.

    Raises:
        UserError: a folder holds a run with other settings, or something else.
    """
    claimed = Claim()
    for run in plan:
        before, now = read_record(run.folder), new_record(sweep, run)
        if before is None and _is_foreign(run.folder):
            before = read_record(run.folder)  # another sweep may have made it ready between the two looks
            if before is None:
                raise UserError(
                    f"{run.folder} is there already, but no run of a sweep: remove it, or give the sweep another output"
                )
        if before is None:
            claimed.todo.append(run)
        elif before.state == "failed":
            (claimed.todo if retry_failed else claimed.failed).append(run)
        elif (changed := difference(before, now)) and before.state != "waiting":
            raise UserError(
                f"{run.folder} holds a {before.state} run of other settings ({changed}): give the sweep another name "
                "and output, take the change back, or remove that folder to run it anew"
            )
        elif is_complete(run.folder, now.splits) and before.state != "running":
            claimed.finished.append(run)
        else:
            claimed.todo.append(run)
    return claimed


def make_ready(sweep: SweepConfig, run: PlannedRun, parallel: int = 1) -> None:
    """Write job.json and job.yaml of a run that is to be done; a failed one of other settings starts from nothing.

    `parallel` runs share the cores of this machine.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(run.folder, tries=1):
            _write(run, read_record(run.folder), new_record(sweep, run, parallel))
    except LockedError:
        return  # another sweep executes it


def _write(run: PlannedRun, before: JobRecord | None, now: JobRecord) -> None:
    if before is not None and before.state == "failed" and difference(before, now):
        # The record goes last: without it, what is left would be no run of a sweep.
        for path in sorted(run.folder.iterdir(), key=lambda path: path.name == RECORD):
            if path.name != LOCK:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        before = None
    if before is not None:
        now.attempts, now.seconds = before.attempts, before.seconds
        now.state = "waiting" if before.state in ("failed", "waiting") else "stopped"
    save_config(run.config, run.folder / CONFIG)
    now.write(run.folder)


def new_record(sweep: SweepConfig, run: PlannedRun, parallel: int = 1) -> JobRecord:
    """The record of a run that has not begun.

    Raises:
        UserError: the launcher's config file cannot be read.
    """
    launcher = read_launcher(sweep.accelerate) if sweep.accelerate else None
    processes = int((launcher or {}).get("num_processes", 1))
    return JobRecord(
        name=run.name,
        config=json.loads(run.config.model_dump_json()),  # as it will be read back
        accelerate=launcher,
        accelerate_file=str(sweep.accelerate) if sweep.accelerate else None,
        data=data_mark(run.config.data.folder),
        threads=sweep.threads or max(1, usable_cores() // (parallel * processes)),
        splits=list(sweep.evaluate.split) if sweep.evaluate else [],
    )


def read_launcher(path: Path) -> dict[str, Any]:
    """The settings of a config file of `accelerate launch`.

    Raises:
        UserError: it is missing or no YAML mapping.
    """
    return read_yaml(path, "name a file of configs/accelerate", place="accelerate: ")


def is_complete(folder: Path, splits: list[str]) -> bool:
    """Whether a run is trained and evaluated on all splits."""
    return is_trained(folder) and all(evaluation(folder, split).exists() for split in splits)


def difference(before: JobRecord, now: JobRecord) -> str | None:
    """The first setting in which two records differ, with both values; None where the run would be the same."""
    for name, old, new in (
        ("", _as_read_now(before.config), now.config),
        ("accelerate.", before.accelerate, now.accelerate),
    ):
        flat = [_flat({k: v for k, v in (x or {}).items() if k not in TRACKING}) for x in (old, new)]
        for key in dict.fromkeys([*flat[1], *flat[0]]):
            one, two = (side.get(key, "absent") for side in flat)
            follows = key == "train.max_tokens" and two == "auto" and one is not None  # as it was when the run began
            if one != two and not follows:
                return f"{name}{key}: {one} then, {two} now"
    if before.data and now.data and before.data != now.data:
        return f"the files in data.folder {now.config['data']['folder']} have changed since"
    return None


def _as_read_now(config: dict[str, Any]) -> dict[str, Any]:
    """An earlier configuration with the defaults of settings that it did not have yet."""
    try:
        return json.loads(RunConfig.model_validate(config).model_dump_json())
    except ValidationError:
        return config


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat


def _is_foreign(folder: Path) -> bool:
    # A sweep that was killed, or is about to write job.json, leaves no more than these.
    ours = (LOCK, CONFIG, f".{CONFIG}.", f".{RECORD}.")
    return folder.exists() and not (folder.is_dir() and all(p.name.startswith(ours) for p in folder.iterdir()))
