"""Use: items recalled out of a whole catalogue: The Complete Journey's products, and how fast a million is searched."""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import figure
from equipoise.common.errors import UserError
from equipoise.export.item_index import RecallIndex

CONFIG = "configs/recall_demo.yaml"
RUN = Path("runs/recall_demo")
QUICK_STEPS, QUICK_REQUESTS = 12, 60
ITEMS, QUICK_ITEMS, DIMENSION = 1_000_000, 200_000, 128
TOP, QUERIES, LENGTH = 200, 30, 15.0
SHORT = {"popularity": "popularity", "bought before": "bought_before", "co-visitation": "covisit", "BM25": "bm25"}


def measure(quick: bool) -> list[dict[str, Any]]:
    """Recall of the products' run beside its baselines, and the time of a search in a large synthetic catalogue.

    Args:
        quick: a run of a few steps, on fewer requests, and a smaller catalogue.

    Raises:
        UserError: a command fails.
    """
    return [*recalls(_evaluated(quick)), *search_times(QUICK_ITEMS if quick else ITEMS)]


def _evaluated(quick: bool) -> dict[str, Any]:
    """The report of the run, which is prepared and trained where it is not there."""
    run = Path("runs/recall_quick") if quick else RUN
    settings = [f"output={run}", *([f"train.max_steps={QUICK_STEPS}"] if quick else [])]
    if not (run / "adapters").is_dir():
        _command("prepare", CONFIG)
        launcher = [sys.executable, "-m", "accelerate.commands.launch"]
        launcher += ["--config_file", "configs/accelerate/cpu_ddp2.yaml", "--main_process_port", "0"]
        _run([*launcher, "-m", "equipoise.launch.train", CONFIG, *settings, "--overwrite"])
    _command("evaluate", str(run), *(["--set", f"evaluate.max_requests={QUICK_REQUESTS}"] if quick else []))
    return json.loads((run / "evaluation_test.json").read_text("utf-8"))["recall"]


def _command(*arguments: str) -> None:
    _run([sys.executable, "-m", "equipoise.launch.cli", *arguments])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{' '.join(command[1:])} failed: {(done.stderr or done.stdout).strip()[-400:]}")


def recalls(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The figures of a report: over all items, and over those never bought before."""
    entries = []
    for which, suffix in (("all", ""), ("new", "_new")):
        for cutoff in (50, 200):
            name = f"recall{cutoff}"
            ours = report[which]["ours"]
            entries.append(figure(f"{name}{suffix}", ours[name], "", interval=ours[f"{name}_interval"]))
            for key, short in SHORT.items():
                entries.append(figure(f"{name}{suffix}_{short}", report[which][key][name], ""))
    return entries


def search_times(items: int) -> list[dict[str, Any]]:
    """Milliseconds of one search for the best 200, by FAISS and exact, and the share of the exact ones that it finds.

    The vectors are of 1,000 clusters, as texts of a catalogue are; popularity is spread as a Gumbel distribution.
    """
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((1_000, DIMENSION)).astype(np.float32)
    vectors = np.empty((items, DIMENSION), dtype=np.float32)
    for begin in range(0, items, 100_000):
        part = vectors[begin : begin + 100_000]
        part[:] = centres[rng.integers(0, len(centres), len(part))]
        part += 0.7 * rng.standard_normal(part.shape, dtype=np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    bias = rng.gumbel(size=items).astype(np.float32)
    queries = vectors[rng.integers(0, items, QUERIES)] * np.float32(LENGTH)
    started = time.perf_counter()
    near = RecallIndex(vectors, bias, exact=False, length=LENGTH)
    built = time.perf_counter() - started
    exact = RecallIndex(vectors, bias, exact=True)
    quick_ms, nearest = _timed(near, queries)
    exact_ms, truth = _timed(exact, queries)
    shares = [float(np.isin(one, other).mean()) for one, other in zip(truth, nearest, strict=True)]
    return [
        figure("recall_search_ms", quick_ms, "ms", items=items),
        figure("recall_search_exact_ms", exact_ms, "ms", items=items),
        figure("recall_search_agreement", statistics.mean(shares), "of the exact 200", items=items),
        figure("recall_index_seconds", built, "s", items=items),
    ]


def _timed(index: RecallIndex, queries: np.ndarray) -> tuple[float, list[np.ndarray]]:
    index.search(queries[:1], TOP)
    times, results = [], []
    for query in queries:
        started = time.perf_counter()
        items, _ = index.search(query[None], TOP)
        times.append((time.perf_counter() - started) * 1000)
        results.append(items[0])
    return statistics.median(times), results
