"""The same preparation by DuckDB and by Spark on this machine: whether the folders are the same, time and memory.

Two data sets: the coupons of The Complete Journey, written as Parquet tables, under the settings of configs/demo.yaml;
and a simulated shop under those of configs/simulator.yaml with rates. Spark runs with `local[2]`.
"""

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import duckdb
import psutil
import yaml

from benchmarks.figures import figure
from benchmarks.same_folder import differences
from equipoise.configs.schema import DataConfig
from equipoise.data.simulator.settings import SimulatorSettings
from equipoise.data.simulator.write import simulate
from equipoise.data.sources import complete_journey

ROOT = Path(__file__).resolve().parent.parent
ROWS, QUICK_ROWS = 5_000_000, 3_000
"""Impressions of the simulated shop."""
CANDIDATES = 12
SPARK = {"master": "local[2]", "conf": {"spark.driver.memory": "3g"}}
CODE = """
import json, sys, time
from equipoise.configs.schema import DataConfig
from equipoise.data.prepare.slates import prepare

start = time.perf_counter()
manifest = prepare(DataConfig.model_validate(json.load(sys.stdin)))
print(json.dumps({"seconds": time.perf_counter() - start, "rows": manifest.counts["impressions"]}))
"""
WATCHED = 0.5
"""Seconds between two looks at the memory."""


def measure(work: Path, quick: bool, rows: int | None = None) -> list[dict[str, Any]]:
    """Figures of both engines on both data sets.

    Args:
        work: folder, of which `spark/` is taken.
        quick: the simulated shop alone, with few impressions.
        rows: impressions of the simulated shop; None: `ROWS`.
    """
    folder = work / "spark"
    folder.mkdir(parents=True, exist_ok=True)
    sets = {} if quick else {"complete_journey": _coupons(folder)}
    sets["simulated"] = simulated(folder, rows or (QUICK_ROWS if quick else ROWS))
    figures, equal = [], True
    for name, settings in sets.items():
        found, own = _compare(folder, name, settings)
        equal = equal and found
        figures += own
    return [figure("spark_equal", equal, "1 where both folders hold the same rows", data=list(sets)), *figures]


def _coupons(folder: Path) -> dict[str, Any]:
    """The Complete Journey as tables; returns `data` of a configuration."""
    settings = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text("utf-8"))["data"]
    tables = {
        name: folder / "complete_journey" / f"{name}.parquet" for name in ("impressions", "items", "users", "events")
    }
    (folder / "complete_journey").mkdir(exist_ok=True)
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        found = complete_journey.load(con)
        for name, path in tables.items():
            con.execute(f"COPY (FROM raw_{name}) TO '{path}' (FORMAT parquet)")
    settings |= {"source": "tables", "tables": {name: str(path) for name, path in tables.items()}}
    settings["split"] = {"column": found.split_column}
    return settings


def simulated(folder: Path, rows: int) -> dict[str, Any]:
    """A simulated shop of so many impressions, in `folder`/shop; returns `data` of a configuration."""
    settings = yaml.safe_load((ROOT / "configs" / "simulator.yaml").read_text("utf-8"))["data"]
    requests = max(rows // CANDIDATES, 100)
    shop = SimulatorSettings(
        requests=requests,
        candidates=CANDIDATES,
        shoppers=max(requests // 8, 50),
        items=min(2_000, max(rows // 100, 30)),
    )
    simulate(folder / "shop", shop)
    tables = {name: str(folder / "shop" / f"{name}.parquet") for name in ("impressions", "items", "users", "events")}
    settings |= {"tables": tables}
    settings["rates"] = [{"of": "click", "by": "item_id", "half_life_days": 7}, {"of": "click", "by": "user_id"}]
    return settings


def _compare(folder: Path, name: str, settings: dict[str, Any]) -> tuple[bool, list[dict[str, Any]]]:
    """Whether both engines make the same folder of a data set, and what each takes."""
    done, outs = {}, {}
    for engine in ("duckdb", "spark"):
        outs[engine] = folder / f"{name}_by_{engine}"
        own = settings | {"folder": str(outs[engine]), "engine": engine, "spark": SPARK}
        done[engine] = prepare_apart(DataConfig.model_validate(own))
    found = differences(outs["duckdb"], outs["spark"])
    for line in found:
        print(f"{name}: {line}", file=sys.stderr)
    figures, rows = [], done["duckdb"]["rows"]
    for engine, each in done.items():
        figures.append(figure(f"{engine}_{name}_seconds", each["seconds"], "s", rows=rows))
        figures.append(figure(f"{engine}_{name}_peak_mb", each["mb"], "MB of all its processes", rows=rows))
    return not found, figures


def prepare_apart(config: DataConfig) -> dict[str, Any]:
    """Prepare in a process of its own; its seconds, rows, and the memory of it and all that it started."""
    process = subprocess.Popen(
        [sys.executable, "-c", CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    peak, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(WATCHED):
            peak[0] = max(peak[0], _memory(process.pid))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    out, errors = process.communicate(config.model_dump_json())
    over.set()
    watcher.join()
    if process.returncode:
        raise RuntimeError(f"{config.engine} did not prepare the tables:\n{errors[-2000:]}")
    return json.loads(out.splitlines()[-1]) | {"mb": peak[0]}


def _memory(pid: int) -> float:
    """MB of a process and those below it; pages that several share count once for each."""
    total = 0
    try:
        above = psutil.Process(pid)
        for each in [above, *above.children(recursive=True)]:
            try:
                total += each.memory_info().rss
            except psutil.NoSuchProcess:
                continue
    except psutil.NoSuchProcess:
        pass
    return total / 2**20
