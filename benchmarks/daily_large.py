"""Fifty million impressions prepared by DuckDB on one machine: rows per second, and memory.

A simulated shop of five million, ten times after one another in time: the same shoppers and items go on.
"""

from pathlib import Path
from typing import Any

import duckdb

from benchmarks.daily_spark import QUICK_ROWS, ROWS, prepare_apart, simulated
from benchmarks.figures import figure
from equipoise.configs.schema import DataConfig

TIMES = 10
DAYS = 60
"""Between one and the next; longer than the simulated time."""


def measure(work: Path, quick: bool) -> list[dict[str, Any]]:
    """Figures of a preparation in a process of its own, under the default `data.memory_limit`.

    Args:
        work: folder, of which `large/` is taken.
        quick: the small form.
    """
    folder = work / "large"
    folder.mkdir(parents=True, exist_ok=True)
    settings = simulated(folder, QUICK_ROWS if quick else ROWS)
    settings["tables"] = {name: _repeated(Path(path)) for name, path in settings["tables"].items()}
    config = DataConfig.model_validate(settings | {"folder": str(folder / "prepared")})
    done = prepare_apart(config)
    about = {"rows": done["rows"], "memory_limit": config.memory_limit, "seconds": round(done["seconds"], 1)}
    return [
        figure("prepare_large_rows_per_second", done["rows"] / done["seconds"], "impressions", **about),
        figure("prepare_large_peak_mb", done["mb"], "MB of the process", **about),
    ]


def _repeated(path: Path) -> str:
    """A table of what happened, again and again later; a table of what there is stays."""
    if path.stem not in ("impressions", "events"):
        return str(path)
    out = path.with_name(f"{path.stem}_{TIMES}.parquet")
    changed = [f"timestamp + to_days({DAYS} * CAST(n AS INTEGER)) AS timestamp"]
    changed += ["request_id || '-' || n AS request_id"] if path.stem == "impressions" else []
    with duckdb.connect() as con:
        con.execute(f"""
            COPY (SELECT * EXCLUDE (n) REPLACE ({", ".join(changed)})
                  FROM range({TIMES}) AS times(n), read_parquet('{path}'))
            TO '{out}' (FORMAT parquet)
        """)
    return str(out)
