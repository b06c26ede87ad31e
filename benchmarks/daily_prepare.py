"""One more day beside many: rows that are prepared and tokenised per second, and the memory that it takes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.daily_shop import FULL, QUICK, Size, day_of, shop_config, write_shop
from benchmarks.figures import figure

LARGE = Size(before=6, nights=1, requests=60_000, shoppers=50_000, items=2_000, steps=None)
"""About 720,000 impressions a day."""
CODE = """
import json, resource, sys, time
from datetime import date
from pathlib import Path
from benchmarks.daily_shop import shop_config, Size
from equipoise.nightly.days import Days
from equipoise.nightly.state import State

plan = json.load(sys.stdin)
config = shop_config(Path(plan["work"]), Size(**plan["size"]), True)
days = Days(config, State(Path(plan["work"]) / "state"))
start = time.perf_counter()
days.append(date.fromisoformat(plan["day"]))
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def measure(work: Path, quick: bool) -> list[dict[str, Any]]:
    """Figures of appending a day; the days before it are appended first, in a process of their own.

    Args:
        work: folder, of which `prepare/` is taken.
        quick: the small form.
    """
    size, folder = QUICK if quick else LARGE, work / "prepare"
    assert size.requests != FULL.requests, "a shop of its own"
    write_shop(folder / "tables", size)
    shop_config(folder, size, True)
    _append(folder, size, size.before)
    done = _append(folder, size, size.before + 1)
    rows = json.loads((folder / "state" / "days" / str(day_of(size.before + 1)) / "manifest.json").read_text("utf-8"))
    impressions = rows["counts"]["impressions"]
    return [
        figure("prepare_rows_per_second", impressions / done["seconds"], "impressions", rows=impressions),
        figure("prepare_peak_mb", done["mb"], "MB of the process"),
    ]


def _append(folder: Path, size: Size, day: int) -> dict[str, float]:
    plan = {"work": str(folder), "size": vars(size), "day": str(day_of(day))}
    done = subprocess.run(
        [sys.executable, "-c", CODE], input=json.dumps(plan), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the day was not appended:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])
