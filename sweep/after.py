"""What ends a sweep: `equipoise compare` over its runs, the failed and unfinished ones included."""

import subprocess
import sys
from collections.abc import Sequence

import typer
from rich.console import Console

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


def compare_runs(sweep: SweepConfig, plan: Sequence[PlannedRun], console: Console) -> None:
    """Compare the runs of a plan.

    Raises:
        typer.Exit: the comparison failed, and has said why.
    """
    code = subprocess.run(compare_command(sweep, plan), check=False).returncode
    if code:
        raise typer.Exit(code)
    console.print(f"comparison: {sweep.output / f'{NAME}.html'}", soft_wrap=True)
