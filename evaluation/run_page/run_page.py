"""`equipoise report RUN`: one self-contained HTML page of a run, from its folder alone, that needs no server."""

import logging
from pathlib import Path
from typing import Any

from equipoise.common.atomic import atomic_write
from equipoise.common.errors import UserError
from equipoise.common.page.whole_page import whole_page
from equipoise.evaluation.compare.curves import GROUPS, curves
from equipoise.evaluation.compare.run_records import SPLITS, RunRecord, read_run
from equipoise.evaluation.metrics.metric_names import ABOUT, WORDS, words
from equipoise.evaluation.report import json_ready
from equipoise.evaluation.run_page.facts import facts, held, missing
from equipoise.evaluation.run_page.front_part import front_part
from equipoise.evaluation.run_page.parts import (
    balance_part,
    data_part,
    evaluation_part,
    recall_part,
    slates_part,
)
from equipoise.evaluation.run_page.verdict import verdict_part

log = logging.getLogger(__name__)
POINTS = 200
"""Of a curve; longer histories are thinned to means over neighbouring records."""
MORE_GROUPS = {"share in conflict": r"balance/conflict/(.+)", "learning": r"train/(lr|grad_norm)"}


def write_report(folder: Path, path: Path, split: str | None = None) -> dict[str, Any]:
    """Write the page of a run, whole or not at all; returns its data.

    Args:
        folder: of the run.
        path: of the page.
        split: whose evaluation is shown; None takes test where it is evaluated, otherwise valid.

    Raises:
        UserError: the folder holds no run, a file in it cannot be read, or the split is none.
    """
    data = page_data(folder, split)
    text = whole_page("equipoise.evaluation.run_page", data)
    if not path.parent.is_dir():
        raise UserError(f"--out {path}: the folder {path.parent} does not exist: make it, or name another file")
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return data


def page_data(folder: Path, split: str | None = None) -> dict[str, Any]:
    """What the page draws; a part that is not there yet says which command makes it."""
    if split is not None and split not in SPLITS:
        raise UserError(f"--split {split}: is no split that is evaluated: write one of {', '.join(SPLITS)}")
    record = read_run(folder)
    split = split or ("valid" if set(record.evaluations) == {"valid"} else "test")
    page = {
        "name": record.name,
        "folder": str(folder),
        "facts": facts(record),
        "objectives": list(record.objectives),
        "config": (folder / "config.yaml").read_text(encoding="utf-8"),
        "data": data_part(folder),
        "verdict": verdict_part(record, split),
        "about": {WORDS[name]: sentence for name, sentence in ABOUT.items()},
        "curves": _curves(record),
        "balance": balance_part(record),
        "evaluation": evaluation_part(record, split),
        "recall": recall_part(record, split),
        "front": front_part(folder),
        "slates": slates_part(record, split),
    }
    return json_ready(page)


def _curves(record: RunRecord) -> dict[str, Any]:
    groups = {name: series for name, series in curves(record.history, POINTS, GROUPS | MORE_GROUPS).items() if series}
    if groups:
        return {"groups": groups, "words": {name: _words(name) for named in groups.values() for name in named}}
    return missing("The run has logged nothing yet.", f"equipoise train {record.folder}/config.yaml --resume")


def _words(name: str) -> str:
    """The name of a curve as people write it."""
    return CURVES.get(name) or (words(name) if "/" in name else name.replace("-", " – "))


CURVES = {"lr": "learning rate", "grad_norm": "norm of the gradient"}
FILE_NAME = "report.html"
PARTS = ("data", "curves", "balance", "evaluation", "recall", "front", "slates")


def report_run(folder: Path, out: Path | None = None, split: str | None = None) -> None:
    """Write the page, and say what it could not show and which command gives it.

    Args:
        folder: of the run.
        out: the page; None is report.html in the run folder.
        split: whose evaluation is shown; None takes test where it is evaluated, otherwise valid.

    Raises:
        UserError: the folder holds no run, or a file in it cannot be read.
    """
    path = out or folder / FILE_NAME
    data = write_report(folder, path, split)
    for part in (data[name] for name in PARTS):
        if part is not None and not held(part):
            log.info(f"{part['missing']} Run: {part['command']}")
    log.info(f"report: {path}")
