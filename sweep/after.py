"""What ends a sweep: `equipoise compare` over its runs, the failed ones included, and the `wandb sync` lines."""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from equipoise.sweep.config import SweepConfig
from equipoise.sweep.plan import PlannedRun

NAME = "compare"


def compare_command(sweep: SweepConfig, plan: Sequence[PlannedRun]) -> list[str]:
    """`equipoise compare` with the runs that have begun; page, tables and picture go into the sweep's folder."""
    folders = [str(run.folder) for run in plan if (run.folder / "config.yaml").is_file()]
    endings = {"--html": "html", "--csv": "csv", "--markdown": "md", "--png": "png"}
    files = [text for option, end in endings.items() for text in (option, str(sweep.output / f"{NAME}.{end}"))]
    split = ["--split", sweep.evaluate.split[0]] if sweep.evaluate else []
    return [sys.executable, "-m", "equipoise.launch.cli", NAME, *folders, *split, *files]


def compare_runs(sweep: SweepConfig, plan: Sequence[PlannedRun]) -> None:
    """Compare the runs of a plan.

    Raises:
        typer.Exit: the comparison failed, and has said why.
    """
    code = subprocess.run(compare_command(sweep, plan), check=False).returncode
    if code:
        raise typer.Exit(code)


MOST_LINES = 20
"""A longer sweep gets one line for all."""


def sync_lines(output: Path, plan: Sequence[PlannedRun]) -> list[str]:
    """One `wandb sync` per run, with its training and its evaluations; [] where nothing is left to be sent.

    Args:
        output: the sweep's folder.
        plan: its runs; those whose wandb.mode is not offline are passed over.
    """
    offline = [run for run in plan if run.config.wandb.mode == "offline"]
    unsent = [folders for run in offline if (folders := unsent_folders(run.folder))]
    if len(unsent) > MOST_LINES:
        return [f"wandb sync --skip-synced {shlex.quote(str(output))}/*/wandb/offline-run-*"]
    return [shlex.join(["wandb", "sync", *map(str, folders)]) for folders in unsent]


def unsent_folders(run: Path) -> list[Path]:
    """W&B's offline folders in a run folder, the oldest first, without those that `wandb sync` has marked as sent."""
    folders = sorted((run / "wandb").glob("offline-run-*"))
    return [folder for folder in folders if list(folder.glob("*.wandb")) and not list(folder.glob("*.wandb.synced"))]
