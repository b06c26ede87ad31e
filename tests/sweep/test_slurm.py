"""One Slurm array, with a stand-in for sbatch that executes what it is given."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from equipoise.sweep.slurm import indices
from tests.sweep.conftest import StandInSweep

# Executes every task of an array in turn, as Slurm would, and notes what it was asked for.
SBATCH = r"""#!{python}
import os, re, subprocess, sys
from pathlib import Path
folder = Path({folder!r})
script = Path(sys.argv[-1])
text = script.read_text()
with (folder / "asked.txt").open("a") as file:
    file.write(" ".join(sys.argv[1:]) + "\n")
array = re.search(r"^#SBATCH --array=(\S+)", text, re.M)
tasks = []
for span in array.group(1).partition("%")[0].split(",") if array else []:
    first, _, last = span.partition("-")
    tasks += range(int(first), int(last or first) + 1)
for task in tasks or [None]:
    extra = {{}} if task is None else {{"SLURM_ARRAY_TASK_ID": str(task)}}
    subprocess.run(["bash", script], env={{**os.environ, **extra}}, stdout=(folder / "printed.txt").open("a"), stderr=2)
print("4711;cluster" if array else "4712")
"""


@pytest.fixture
def cluster(sweep: StandInSweep) -> StandInSweep:
    """The sweep with an sbatch on PATH."""
    script = sweep.folder / "bin" / "sbatch"
    script.parent.mkdir()
    script.write_text(SBATCH.format(python=sys.executable, folder=str(sweep.folder)))
    script.chmod(0o755)
    sweep.environment["PATH"] = f"{script.parent}:{os.environ['PATH']}"
    return sweep


@pytest.mark.slow
def test_array_executes_each_run_once_and_then_only_what_is_left(cluster: StandInSweep) -> None:
    slurm = {"options": {"partition": "gpu", "time": "02:00:00", "exclusive": True}, "setup": ["export OF_SETUP=1"]}
    cluster.write(grid={"lora.rank": [4, 13, 8]}, slurm={**slurm, "at_once": 2})
    code, printed = cluster.run("--submit")
    assert code == 0 and "sweep.sbatch as job 4711" in printed and "after.sbatch as job 4712" in printed
    script = (cluster.output / "sweep.sbatch").read_text()
    for line in ("partition=gpu", "time=02:00:00", "exclusive", "array=0-2%2", "signal=B:TERM@180"):
        assert f"#SBATCH --{line}\n" in script
    assert script.index("export OF_SETUP=1") < script.index("--only")
    asked = (cluster.folder / "asked.txt").read_text().splitlines()
    assert [re.sub(r"/\S*/", "", line) for line in asked] == [
        "--parsable sweep.sbatch", "--parsable --dependency=afterany:4711 after.sbatch"
    ]  # fmt: skip
    told = (cluster.folder / "printed.txt").read_text()
    assert "rank-4 finished" in told and "rank-13 failed: RuntimeError: thirteen" in told
    assert "2 of 3 runs finished, 1 failed" in told  # what the job after the array found
    for rank in (4, 8):
        assert [call.split()[0] for call in cluster.calls(f"rank-{rank}")] == ["train", "evaluate"]
    listed = (cluster.output / "runs.tsv").read_text().splitlines()
    assert listed[1:] == [f"{n}\trank-{rank}\tlora.rank={rank}" for n, rank in enumerate((4, 13, 8))]

    assert "nothing to do" in cluster.run("--slurm")[1]
    assert cluster.run("--slurm", "--retry-failed")[0] == 0
    again = (cluster.output / "sweep.sbatch").read_text()
    assert "#SBATCH --array=1%2\n" in again and '--only "$SLURM_ARRAY_TASK_ID" --retry-failed' in again


@pytest.mark.slow
def test_index_that_means_another_run_now_is_refused(sweep: StandInSweep) -> None:
    sweep.write(grid={"lora.rank": [4, 8]})
    assert sweep.run("--slurm")[0] == 0
    sweep.write(grid={"lora.rank": [2, 4, 8]})
    code, printed = sweep.run("--only", "1")
    assert code == 2 and "run 1 was rank-8" in printed and "is rank-4 now" in printed
    code, printed = sweep.run("--only", "2")
    assert code == 2 and "has no run 2" in printed
    assert not sweep.calls("rank-4")


def test_submission_says_what_is_wrong(cluster: StandInSweep) -> None:
    cluster.write(seeds=[1])
    sbatch = cluster.folder / "bin" / "sbatch"
    sbatch.write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified' >&2; exit 1\n")
    code, printed = cluster.run("--submit")
    assert code == 2 and "invalid partition specified): correct slurm.options" in printed
    sbatch.unlink()
    code, printed = cluster.run("--submit")
    assert code == 2 and "no sbatch on PATH" in printed


@pytest.mark.slow
def test_script_is_sound_where_paths_have_spaces(sweep: StandInSweep, tmp_path: Path) -> None:
    sweep.file = tmp_path / "my sweep.yaml"
    sweep.write(seeds=[1], output=str(tmp_path / "my runs"))
    assert sweep.run("--slurm")[0] == 0
    script = tmp_path / "my runs" / "sweep.sbatch"
    environment = {**sweep.environment, "SLURM_ARRAY_TASK_ID": "0"}
    done = subprocess.run(["bash", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "seed-1 finished" in done.stdout, done.stderr
    assert "#SBATCH --output='" in script.read_text()


def test_indices_are_written_as_slurm_reads_them() -> None:
    assert indices([0, 1, 2, 4, 7, 8]) == "0-2,4,7-8"
    assert indices([5]) == "5"
