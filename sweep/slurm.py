"""A sweep as one Slurm array: each task executes one run; a last job ends the sweep."""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from equipoise.common.atomic import atomic_write
from equipoise.common.errors import UserError
from equipoise.sweep.config import SweepConfig
from equipoise.sweep.plan import PlannedRun

SCRIPT, AFTER, LIST, LOGS = "sweep.sbatch", "after.sbatch", "runs.tsv", "slurm"


def write_array(
    sweep: SweepConfig, file: Path, plan: list[PlannedRun], todo: list[PlannedRun], retry_failed: bool = False
) -> list[Path]:
    """Write the script of the array, that of the job after it, and the list of runs, into the sweep's folder.

    Args:
        sweep: with its options of sbatch.
        file: where the sweep is written; tasks read it again.
        plan: all runs.
        todo: those that the array executes.
        retry_failed: whether there are failed ones among them.

    Returns:
        The two scripts, in the order of their submission.
    """
    (sweep.output / LOGS).mkdir(parents=True, exist_ok=True)
    rows = [f"{run.index}\t{run.name}\t{' '.join(run.overrides)}\n" for run in plan]
    _write(sweep.output / LIST, "index\tname\tsettings\n" + "".join(rows))
    command = [sys.executable, "-m", "equipoise.launch.cli", "sweep", str(file)]
    at_once = f"%{sweep.slurm.at_once}" if sweep.slurm.at_once else ""
    options = {
        "job-name": sweep.name,
        "output": str(sweep.output / LOGS / "%A_%a.log"),
        "open-mode": "append",
        "signal": "B:TERM@180",  # to the task itself, which hands it on, so that the run saves before the time is up
        **sweep.slurm.options,
        "array": indices([run.index for run in todo]) + at_once,
    }
    task = f'exec {shlex.join(command)} --only "$SLURM_ARRAY_TASK_ID"{" --retry-failed" if retry_failed else ""}'
    script = _write(sweep.output / SCRIPT, _script(options, sweep.slurm.setup, task))
    others = sweep.slurm.options if sweep.slurm.after_options is None else sweep.slurm.after_options
    options = {"job-name": f"{sweep.name}-after", "output": str(sweep.output / LOGS / "after_%j.log"), **others}
    after = _write(sweep.output / AFTER, _script(options, sweep.slurm.setup, f"exec {shlex.join(command)} --collect"))
    return [script, after]


def submit(scripts: Sequence[Path]) -> list[str]:
    """Hand the scripts to sbatch, each to begin when the one before has ended; returns their job ids.

    Raises:
        UserError: there is no sbatch, or it refuses.
    """
    sbatch, ids = shutil.which("sbatch"), list[str]()
    if sbatch is None:
        raise UserError("--submit: there is no sbatch on PATH: run it on a login node of the cluster")
    for script in scripts:
        wait = [f"--dependency=afterany:{ids[-1]}"] if ids else []
        done = subprocess.run([sbatch, "--parsable", *wait, str(script)], capture_output=True, text=True, check=False)
        if done.returncode:
            reason = " ".join((done.stderr or done.stdout).split())
            raise UserError(f"sbatch refuses {script} ({reason}): correct slurm.options")
        ids.append(done.stdout.strip().partition(";")[0])
    return ids


def indices(numbers: Sequence[int]) -> str:
    """Ascending numbers as Slurm writes them: 0-3,7,9-10."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(f"{first}-{last}" if first < last else str(first) for first, last in spans)


def check_listed(sweep: SweepConfig, run: PlannedRun) -> None:
    """Make sure that an index still means the run that it meant when the array was written.

    Raises:
        UserError: the sweep has changed since.
    """
    path = sweep.output / LIST
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        index, name, _ = line.split("\t")
        if int(index) == run.index:
            if name != run.name:
                raise UserError(
                    f"run {index} was {name} when {path} was written, and is {run.name} now: write it again"
                )
            return
    raise UserError(f"{path} has no run {run.index}: write it again with --slurm")


def _script(options: dict[str, bool | int | str], setup: Sequence[str], command: str) -> str:
    lines = [f"#SBATCH --{name}" if value is True else f"#SBATCH --{name}={shlex.quote(str(value))}"
             for name, value in options.items() if value is not False]  # fmt: skip
    return "\n".join(["#!/bin/bash", *lines, "set -e", f"cd {shlex.quote(str(Path.cwd()))}", *setup, command]) + "\n"


def _write(path: Path, text: str) -> Path:
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path
