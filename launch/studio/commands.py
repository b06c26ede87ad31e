"""Which commands a studio starts, and with what: built here from checked names, so that nothing else can run."""

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from equipoise.common.errors import UserError
from equipoise.common.yaml_file import read_yaml
from equipoise.evaluation.compare.run_records import json_object
from equipoise.launch.studio.workspace import OWN, Workspace

ON_CONFIGS = ("validate", "prepare", "preview", "audit", "estimate", "train")
ON_RUNS = ("train", "evaluate", "front", "report", "diagnose", "export")
COMPARISON = f"{OWN}/comparison.html"


class Start(BaseModel):
    """What a page asks to be started."""

    model_config = ConfigDict(extra="forbid")
    command: Literal["validate", "prepare", "preview", "audit", "estimate", "train", "evaluate", "front", "report",
                     "diagnose", "export", "compare"]  # fmt: skip
    config: str | None = None
    run: str | None = None
    runs: list[str] = Field(default_factory=list, max_length=40)
    overwrite: bool = False
    at_least: dict[str, float] | None = Field(None, description="Of `front`: bounds of the chosen point by axis.")


def arguments(asked: Start, workspace: Workspace) -> tuple[list[str], str]:
    """The arguments of the command, and the config or run that it is about.

    Raises:
        UserError: a name leads nowhere, or the command needs another kind of one.
    """
    if asked.command == "compare":
        if len(asked.runs) < 2:
            raise UserError("a comparison needs two runs at least: choose some of the list")
        names = [str(workspace.run_path(name).relative_to(workspace.folder)) for name in asked.runs]
        return [*names, "--html", COMPARISON], COMPARISON
    if asked.run is not None and asked.command in ON_RUNS:
        workspace.run_path(asked.run)
        return _on_run(asked, asked.run, workspace), asked.run
    if asked.config is not None and asked.command in ON_CONFIGS:
        if not workspace.config_path(asked.config).is_file():
            raise UserError(f"there is no config {asked.config}: save it first")
        rest = ["--overwrite"] if asked.overwrite and asked.command == "train" else []
        subject = _output(asked.config, workspace) if asked.command == "train" else asked.config
        return [asked.config, *rest], subject
    raise UserError(f"{asked.command} needs {'a run' if asked.command in ON_RUNS else 'a config'}: choose one")


def _on_run(asked: Start, run: str, workspace: Workspace) -> list[str]:
    if asked.command == "train":
        return [f"{run}/config.yaml", "--resume"]
    if asked.command == "export":
        return [run, export_of(run), *(["--overwrite"] if asked.overwrite else [])]
    if asked.command == "front":
        return [run, *(_choice(asked.at_least, run, workspace) if asked.at_least is not None else ["--knee"])]
    return [run]


def export_of(run: str) -> str:
    """Where a run of the workspace is exported to."""
    return f"exports/{run.removeprefix('runs/')}"


def _choice(at_least: dict[str, float], run: str, workspace: Workspace) -> list[str]:
    """The options that measure the same front again and choose its most relevant point above some bounds."""
    front = json_object(workspace.run_path(run) / "front.json", "measure the front again")
    if front is None:
        raise UserError(f"{run} has no front yet: measure it first")
    first, *others = front["axes"]
    if set(at_least) != set(others) or not all(math.isfinite(value) for value in at_least.values()):
        raise UserError(f"a point of this front is chosen by bounds of {', '.join(others)}: give a number for each")
    # A hair below what was measured, so that rounding does not lose the point itself.
    where = " and ".join(f"{axis}>={at_least[axis] - 1e-9:.12f}" for axis in others)
    return ["--where", where, "--maximize", first, "--confidence", "0", "--cutoff", str(front["cutoff"]), *_grid(front)]


def _grid(front: dict[str, Any]) -> list[str]:
    omega = front["grid"].get("omega") or {}
    levels = ",".join(f"{name}={','.join(f'{value:g}' for value in values)}" for name, values in omega.items())
    return ["--omegas", levels, "--axes", ",".join(front["axes"])] if levels else []


def _output(config: str, workspace: Workspace) -> str:
    settings: Any = read_yaml(workspace.config_path(config), "correct it")
    output = settings.get("output") if isinstance(settings, dict) else None
    return str(output) if isinstance(output, str) else config
