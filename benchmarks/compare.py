"""How long `equipoise compare` takes for hundreds of runs, and how large its page is.

    python -m benchmarks.compare [--quick] --json FILE

Run folders are written as training and evaluation leave them: a config, 500 history records, and scores of 20,000 rows
with their evaluation. Then the command is started anew, against a baseline with bootstrap intervals, and timed with its
start. Some runs are also tracked by W&B, offline and by its own client, and compared from its files alone.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.compare_runs import ROOT, made, write_run
from benchmarks.compare_wandb import same_table
from benchmarks.figures import figure, report, show, write

METHODS = ("weighted", "pcgrad", "mgda", "upgrad", "nash")


@dataclass(frozen=True)
class Plan:
    """Runs, of which four are seeds of one config; history records; requests of 20 candidates; different models; how
    many runs are tracked by W&B.
    """

    runs: int = 200
    records: int = 500
    requests: int = 1_000
    models: int = 8
    tracked: int = 8


WHOLE, QUICK = Plan(), Plan(runs=20, records=50, requests=100, models=2, tracked=4)


def write_runs(folder: Path, plan: Plan, more: Mapping[str, Any] | None = None) -> str:
    """Write all run folders, with `more` settings changed; returns the name of the first config."""
    models = [made(number, plan.requests, 20) for number in range(plan.models)]
    for number in range(plan.runs):
        config, seed = divmod(number, 4)
        method, weight = METHODS[config % len(METHODS)], round(0.1 * (1 + config // len(METHODS)), 1)
        changes = {"seed": seed, "balancing.method": method, "objectives.diversity.weight": weight} | dict(more or {})
        write_run(folder / f"{method}-{weight}-seed{seed}", changes, models[number % plan.models], plan.records)
    return f"{METHODS[0]}-0.1"


def measure(plan: Plan) -> list[dict[str, Any]]:
    """All figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        baseline = write_runs(folder / "runs", plan)
        page = folder / "page.html"
        files = ["--html", page, "--csv", folder / "table.csv", "--markdown", folder / "table.md"]
        seconds = _timed(folder, ["--baseline", baseline, *files])
        drawn = _timed(folder, ["--baseline", baseline, *files, "--png", folder / "picture.png"])
        plain = _timed(folder, files)
        size = page.stat().st_size
        write_runs(folder / "tracked", replace(plan, runs=plan.tracked, records=20), {"wandb.mode": "offline"})
        (folder / "wandb").mkdir()
        same = same_table(folder / "tracked", folder / "wandb")
    where = {"runs": plan.runs, "records": plan.records, "rows": 20 * plan.requests}
    return [
        figure(f"seconds_{plan.runs}_runs", seconds, "s", out="terminal, html, csv, markdown; intervals", **where),
        figure(f"seconds_{plan.runs}_runs_with_png", drawn, "s", **where),
        figure(f"seconds_{plan.runs}_runs_without_baseline", plain, "s", **where),
        figure("page_bytes", size, "bytes", **where),
        figure("table_equal_offline_wandb", same, "1: equal", runs=plan.tracked),
    ]


def _timed(folder: Path, options: list[Any]) -> float:
    """Seconds of the command, with the start of its process."""
    command = [sys.executable, "-m", "equipoise.launch.cli", "compare", folder / "runs", *options]
    start = time.perf_counter()
    subprocess.run([str(part) for part in command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Comparison of many runs: time and size.")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--quick", action="store_true", help="20 small runs instead of 200")
    asked = parser.parse_args()
    plan = QUICK if asked.quick else WHOLE
    figures = measure(plan)
    write(asked.json, report("compare", figures, quick=asked.quick, plan=vars(plan)))
    show("Comparison of runs", figures)


if __name__ == "__main__":
    main()
