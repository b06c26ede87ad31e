"""Prepared data and token ids of a sweep, made once, before its runs would each begin to make them.

`python -m equipoise.sweep.data_once job.yaml …` makes what is missing for these runs.
"""

import json
import subprocess
import sys
from pathlib import Path

import typer

from equipoise.common.errors import UserError
from equipoise.configs.load import load_config
from equipoise.configs.schema import DataConfig, RunConfig
from equipoise.data.features import read_scales, same_features
from equipoise.sweep.plan import PlannedRun, digest
from equipoise.sweep.record import CONFIG

MANIFEST = "manifest.json"
IN_MANIFEST = ("prompt", "history", "fields", "rates", "user_groups", "item_dropout")


def check_folders(plan: list[PlannedRun]) -> None:
    """Refuse runs that share a prepared folder but not the settings that it is prepared with.

    Raises:
        UserError: names both runs, or the setting that an existing folder was prepared with otherwise.
    """
    first: dict[Path, PlannedRun] = {}
    for run in plan:
        data = run.config.data
        other = first.setdefault(data.folder, run)
        if other.config.data != data:
            raise UserError(
                f"runs {other.name} and {run.name} differ in data.* but share data.folder {data.folder}: "
                "set data.folder beside what is varied"
            )
        if other is run and (key := prepared_otherwise(data)):
            raise UserError(
                f"{data.folder} was prepared with another data.{key}: run `equipoise prepare` with the settings of run "
                f"{run.name}, or set another data.folder"
            )


def prepared_otherwise(data: DataConfig) -> str | None:
    """The first setting with which an existing folder was prepared otherwise, as far as its manifest tells."""
    try:
        manifest = json.loads((data.folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None  # not there yet; a damaged one is for `prepare` to tell
    now = data.model_dump(mode="json")
    for section in IN_MANIFEST:
        before = manifest.get(section, now[section])
        if isinstance(before, dict):  # settings that came later are not in it
            if not isinstance(now[section], dict):
                return section
            changed = next((key for key in before if before[key] != now[section].get(key)), None)
            if changed:
                return f"{section}.{changed}"
        elif before != now[section]:
            return section
    compared = data.comparison.prepared() if data.comparison is not None else None
    if compared and manifest.get("comparison") != compared:
        return "comparison"
    return None if same_features(read_scales(manifest.get("features", {})), data.features) else "features"


def make_data(runs: list[PlannedRun]) -> None:
    """Prepare and tokenise what these runs read, in a process of its own; their job.yaml must be there.

    Raises:
        typer.Exit: it failed, and has said why.
    """
    config_files = {_way(run.config): run.folder / CONFIG for run in reversed(runs)}
    if not config_files:
        return
    command = [sys.executable, "-m", "equipoise.sweep.data_once", *map(str, reversed(config_files.values()))]
    code = subprocess.run(command, check=False).returncode
    if code:
        raise typer.Exit(code)


def _way(config: RunConfig) -> str:
    backbone = config.backbone
    reads = [backbone.path, backbone.tokenizer, backbone.revision, config.tokens.model_dump()]
    return digest([str(config.data.folder), reads])


def main(files: list[str]) -> None:
    """Make what is missing for each of these configurations."""
    from equipoise.train.prepare_run import prepare_data as prepare
    from equipoise.train.prepare_run import write_tokens as tokenize

    for file in files:
        config = load_config(file)
        if (config.data.folder / MANIFEST).is_file():
            tokenize(config)
        else:
            prepare(config)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(2)
