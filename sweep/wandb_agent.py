"""A sweep that W&B's agent drives: the configuration of the W&B sweep, and the runs that the agent asks for."""

import ast
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from equipoise.common.atomic import atomic_write
from equipoise.common.errors import UserError
from equipoise.configs.load import read_settings
from equipoise.configs.schema import RunConfig
from equipoise.sweep.config import DrawConfig, SweepConfig
from equipoise.sweep.plan import PlannedRun, join_name, listed_runs, plan_run, value_text

FILE = "wandb_sweep.yaml"
RUNS_AXIS = "run"


def wandb_settings(sweep: SweepConfig, file: Path, example: RunConfig) -> dict[str, Any]:
    """The configuration of the W&B sweep that draws from the same space.

    Args:
        sweep: the space; axes of labelled settings become parameters of labels.
        file: where the sweep is written; the agent's runs read it again.
        example: one of its runs, for the W&B project and what is logged.

    Raises:
        UserError: W&B cannot draw from this space, or would never see its runs or its metric.
    """
    _refuse(sweep, example)
    parameters: dict[str, Any] = {}
    for name, axis in sweep.grid.items():
        parameters[name] = {"values": list(axis)}
    for name, draw in sweep.random.draw.items() if sweep.random else ():
        parameters[name] = _parameter(draw)
    if sweep.runs:
        parameters[RUNS_AXIS] = {"values": [name for name, _ in listed_runs(sweep)]}
    if sweep.seeds:
        parameters["seed"] = {"values": sweep.seeds}
    settings: dict[str, Any] = {
        "name": sweep.name,
        "project": example.wandb.project,
        **({"entity": example.wandb.entity} if example.wandb.entity else {}),
        "method": sweep.wandb.method or ("random" if sweep.random else "grid"),
        "program": str(file),
        "command": [
            "${env}", sys.executable, "-m", "equipoise.launch.cli",
            "sweep", "${program}", "--trial", "${args_no_hyphens}"
        ],
        "parameters": parameters,
    }  # fmt: skip
    if sweep.wandb.metric:
        settings["metric"] = sweep.wandb.metric.model_dump()
    if sweep.wandb.early_terminate:
        settings["early_terminate"] = sweep.wandb.early_terminate
    return settings


def write_wandb_settings(settings: dict[str, Any], folder: Path) -> Path:
    """Write the configuration of the W&B sweep into the sweep's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / FILE) as partial:
        partial.write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return folder / FILE


def plan_trial(sweep: SweepConfig, arguments: Sequence[str]) -> PlannedRun:
    """The run that W&B's agent asks for.

    Args:
        sweep: whose labels it may name.
        arguments: `key=value` with values as Python writes them: of axes, of drawn keys, of any other setting.

    Raises:
        UserError: an argument cannot be read, a label is not there, or the schema refuses the combination.
    """
    settings, parts = dict(sweep.settings), []
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals or not key:
            raise UserError(f"'{argument}' is not of the form KEY=VALUE: write for example train.lr=3e-4")
        axis = sweep.grid.get(key)
        if isinstance(axis, dict):
            if text not in axis:
                raise UserError(f"{key} has no '{text}': name one of {', '.join(axis)}")
            settings |= axis[text]
            parts.append(text)
        elif key == RUNS_AXIS:
            listed = dict(listed_runs(sweep))
            if text not in listed:
                raise UserError(f"{key} has no '{text}': name one of {', '.join(listed)}")
            settings |= listed[text]
            parts.append(text)
        else:
            settings[key] = _python_value(text)
            parts.append(f"{key.rpartition('.')[2]}-{value_text(settings[key])}")
    own = os.environ.get("WANDB_RUN_ID", "")
    parts.append(re.sub(r"[^A-Za-z0-9._+-]", "-", own) if own else "trial")
    return plan_run(sweep, read_settings(sweep.base), 0, join_name(parts), settings)


def _refuse(sweep: SweepConfig, example: RunConfig) -> None:
    if sweep.runs and (sweep.grid or sweep.random):
        raise UserError(
            "W&B draws from one space, and this sweep has runs beside it: move `runs` to a sweep of its own"
        )
    if example.wandb.mode == "disabled":
        raise UserError(
            "W&B's agent looks at its runs, and wandb.mode is disabled: add `wandb.mode: online` to settings"
        )
    method = sweep.wandb.method
    if method == "grid" and sweep.random:
        raise UserError("wandb.method: grid cannot go through what is drawn: take random or bayes, or drop `random`")
    metric = sweep.wandb.metric
    if metric and metric.name.startswith("valid/") and not example.train.eval_every:
        raise UserError(f"wandb.metric {metric.name} is only logged with train.eval_every: add it to settings")


def _parameter(draw: DrawConfig) -> dict[str, Any]:
    if draw.choice is not None:
        return {"values": draw.choice}
    if draw.integers is not None:
        return {"distribution": "int_uniform", "min": draw.integers[0], "max": draw.integers[1]}
    if draw.log_uniform is not None:
        return {"distribution": "log_uniform_values", "min": draw.log_uniform[0], "max": draw.log_uniform[1]}
    assert draw.uniform is not None, "the schema sets one of the four"
    return {"distribution": "uniform", "min": draw.uniform[0], "max": draw.uniform[1]}


def _python_value(text: str) -> Any:
    # W&B writes None, True and {'a': 1}; whatever Python does not know is a plain text.
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
