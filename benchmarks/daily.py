"""A shop that trains every night: what it costs and keeps, what it refuses, and that no request is lost at a switch.

    python -m benchmarks.daily [--quick] --json FILE [--only nights,switch,prepare,large,scoring,ope,spark]
                               [--work FOLDER] [--rows N]

Parts, each a module of its own with `measure(work, quick)`:

nights   fourteen simulated days with drift (the answer to prices changes from day to day): nights that go on from the
         night before, against trainings from nothing on all days, on the same requests of the day after; a day whose
         labels are shuffled is to be refused (`benchmarks/daily_nights.py`)
switch   32 clients while the link leads from one export to another (`benchmarks/daily_switch.py`; needs `nights`)
prepare  rows per second and memory of one more day (`benchmarks/daily_prepare.py`)
large    fifty million impressions by DuckDB (`benchmarks/daily_large.py`)
scoring  one worker and two, each with one thread (`benchmarks/daily_scoring.py`)
spark    the same preparation by DuckDB and by Spark: equal rows, time, memory (`benchmarks/daily_spark.py`; needs Java)
ope      estimates from logs of drawn lists, and of places, against the truth (`benchmarks/daily_ope.py`)

The quick form has a tiny random base, few days and few requests: it shows that all of it runs, not how well.
"""

import argparse
import importlib
import tempfile
from pathlib import Path

from benchmarks.figures import report, show, write

PARTS = {
    "nights": "benchmarks.daily_nights",
    "switch": "benchmarks.daily_switch",
    "prepare": "benchmarks.daily_prepare",
    "large": "benchmarks.daily_large",
    "scoring": "benchmarks.daily_scoring",
    "ope": "benchmarks.daily_ope",
    "spark": "benchmarks.daily_spark",
}
"""Name of a part → its module."""


def main(arguments: list[str] | None = None) -> None:
    """Measure the parts that are asked for and write their figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny base, few days")
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    parser.add_argument("--work", type=Path, help="folder to keep; a temporary one by default")
    parser.add_argument("--rows", type=int, help="impressions of the simulated shop of part spark (default 5,000,000)")
    options = parser.parse_args(arguments)
    names = options.only.split(",")
    for name in names:
        if name not in PARTS:
            parser.error(f"--only: there is no part '{name}': name some of {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        figures = []
        for name in names:
            own = {"rows": options.rows} if name == "spark" else {}
            figures += importlib.import_module(PARTS[name]).measure(work, options.quick, **own)
    show("daily", figures)
    write(options.json, report("daily", figures, quick=options.quick, parts=names))


if __name__ == "__main__":
    main()
