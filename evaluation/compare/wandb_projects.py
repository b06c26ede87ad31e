"""Runs of W&B projects, asked of its server: what training and evaluation told there, without run folders."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from equipoise.common.errors import UserError, format_error
from equipoise.evaluation.compare.run_records import RunRecord
from equipoise.evaluation.compare.wandb_runs import RunLog, run_record
from equipoise.train.trackers.wandb_run import STEP

PATH = re.compile(r"[^/\s]+/[^/\s]+")
JOB = "compare"
"""Job type of the runs in which comparisons are kept; they are no trainings."""


def read_wandb_projects(paths: Sequence[str]) -> list[RunRecord]:
    """The trainings of some projects, each with its evaluations; runs that this package did not make are passed over.

    Args:
        paths: ENTITY/PROJECT.

    Raises:
        UserError: a path is none, W&B cannot be asked, or a project holds no training.
    """
    for path in paths:
        if not PATH.fullmatch(path):
            raise UserError(f"--wandb-project {path}: write it as ENTITY/PROJECT, such as team/shop")
    import wandb

    api: Any = None
    records: list[RunRecord] = []
    for path in paths:
        try:
            api = api or wandb.Api()
            logs = [_log(path, run) for run in api.runs(path) if run.job_type != JOB]
        except Exception as error:
            raise UserError(
                f"--wandb-project {path}: W&B does not answer with its runs ({format_error(error)}): log in with "
                "`wandb login`, correct the name, or compare run folders"
            ) from error
        found = [run_record(log) for log in logs if "objectives" in log.config]
        if not found:
            raise UserError(f"--wandb-project {path} holds no run of `equipoise train`: name another project")
        records += found
    return records


def _log(path: str, run: Any) -> RunLog:
    """What W&B has of a run, in plain values."""
    log = RunLog(Path(path) / str(run.id), _plain(run.config), _plain(run.summary))
    log.history = [_plain(row) for row in run.scan_history() if row.get(STEP) is not None]
    return log


def _plain(value: Any) -> Any:
    """W&B's own mappings as dicts; numbers that are not finite, which it spells as texts too, as null."""
    if isinstance(value, Mapping) or hasattr(value, "items"):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if value in ("NaN", "Infinity", "-Infinity") or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value
