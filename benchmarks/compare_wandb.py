"""Whether the comparison of offline W&B files is that of the run folders: told by the real client, read back."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.compare_runs import ROOT
from equipoise.configs.load import read_run_config
from equipoise.evaluation.compare.run_records import read_run
from equipoise.train.trackers.wandb_run import STEP, begin, end, tell_evaluation


def tell(run: Path) -> None:
    """Tell W&B of a run folder, offline, what training and evaluation tell."""
    import wandb

    config, record = read_run_config(run), read_run(run)
    opened = wandb.init(mode="offline", project="benchmark", name=config.name, group=config.wandb.group, dir=str(run))
    accelerator: Any = SimpleNamespace(get_tracker=lambda name, unwrap: opened)
    begin(accelerator, config, {}, run)
    for values in record.history:
        numbers = {key: value for key, value in values.items() if key not in ("step", "seconds")}
        opened.log({**numbers, STEP: values["step"]}, step=values["step"])
    end(accelerator, config, record.summary, run)
    opened.finish()
    for split, report in record.evaluations.items():
        tell_evaluation(config, run, split, report)


def same_table(runs: Path, out: Path) -> bool:
    """Compare all runs below a folder, from their folders and from W&B's files moved away from them.

    Args:
        runs: whose config says wandb.mode: offline.
        out: an empty folder.
    """
    os.environ["WANDB_SILENT"] = "true"
    for config in sorted(runs.glob("*/config.yaml")):
        tell(config.parent)
        shutil.move(config.parent / "wandb", out / config.parent.name)
    tables = []
    sources: dict[str, list[Any]] = {"folders": [runs], "wandb": ["--from-wandb", out]}
    for name, arguments in sources.items():
        path = out / f"{name}.csv"
        command = [sys.executable, "-m", "equipoise.launch.cli", "compare", *arguments, "--csv", path]
        subprocess.run([str(part) for part in command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        with path.open(newline="") as file:
            rows = [{key: row[key] for key in row if key != "folders"} for row in csv.DictReader(file)]
        tables.append(sorted(rows, key=lambda row: row["run"]))
    return bool(tables[0]) and tables[0] == tables[1]
