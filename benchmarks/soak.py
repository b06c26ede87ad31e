"""Kills, damaged files, bad settings and hostile requests: what survives, in numbers that should be zero.

    python -m benchmarks.soak [--quick] --json FILE [--only kills,corruptions,inputs,hostile] [--work FOLDER]

On a tiny shop and a tiny random base, with the commands that users have: trainings of two processes under DDP, ZeRO-2,
ZeRO-3 and FSDP 2 are killed (SIGKILL to all of their processes) and resumed; every file of a checkpoint, an export, the
prepared data and the token cache is zeroed, flipped, truncated and exchanged for another one; every setting of a config
gets values that mean nothing good; a server gets hostile requests. The whole form takes about two hours on 4 cores.
"""

import argparse
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.figures import figure, report, show, write
from benchmarks.serving_hostile import CASES, exchange
from benchmarks.serving_process import Variant, serving
from benchmarks.soak_corruption import try_all
from benchmarks.soak_inputs import try_inputs
from benchmarks.soak_kills import ENGINES, kill_often
from benchmarks.soak_work import Work, make_work

PARTS = ("corruptions", "inputs", "hostile", "kills")
KILLS = 10
"""Of each engine, in the whole form."""
QUICK_INPUTS = 100


def kills(work: Work, quick: bool) -> list[dict[str, Any]]:
    """Figures of the kills over all engines."""
    draw = random.Random(23)
    done = [kill_often(work, engine, 1 if quick else KILLS, draw) for engine in ENGINES]
    return [
        figure("kills", sum(each.kills for each in done), "kills", engines=list(ENGINES)),
        figure("unusable_checkpoints", sum(each.unusable for each in done), "checkpoints"),
        figure("final_max_abs_diff", max(each.largest for each in done), "of a weight"),
    ]


def corruptions(work: Work, quick: bool) -> list[dict[str, Any]]:
    """Figures of the damaged files."""
    done = try_all(work, quick)
    accepted = [str(each) for each in done if each.accepted]
    broken = [str(each) for each in done if each.said.traceback]
    kinds = {kind: sum(each.kind == kind for each in done) for kind in sorted({each.kind for each in done})}
    return [
        figure("corruptions_tried", len(done), "files", **kinds),
        figure("corruptions_accepted", len(accepted), "files", which=accepted[:20]),
        figure("corruption_tracebacks", len(broken), "files", which=broken[:20]),
    ]


def inputs(work: Work, quick: bool) -> list[dict[str, Any]]:
    """Figures of the bad settings."""
    tried, broken = try_inputs(work.config, work.folder, QUICK_INPUTS if quick else None)
    return [
        figure("bad_inputs_tried", tried, "settings"),
        figure("tracebacks", len(broken), "settings", which=broken[:20]),
    ]


def hostile(work: Work, quick: bool) -> list[dict[str, Any]]:
    """Figures of the hostile requests; the slowest one from the first byte sent to the answer's end."""
    errors, slowest, which = 0, 0.0, ""
    with serving(work.export, Variant()) as server:
        for name, case in CASES.items():
            start = time.perf_counter()
            errors += exchange(server.host, server.port, case.sent).startswith(b"HTTP/1.1 5")
            seconds = time.perf_counter() - start
            if seconds > slowest:
                slowest, which = seconds, name
    return [
        figure("hostile_requests", len(CASES), "requests"),
        figure("server_errors", errors, "5xx answers"),
        figure("slowest_hostile_ms", 1000 * slowest, "ms", which=which),
    ]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Kills, damaged files, bad settings and hostile requests.")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--quick", action="store_true", help="one kill per engine, one damage per file, fewer settings")
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--work", type=Path, help="where to work; left there")
    asked = parser.parse_args()
    parts = asked.only.split(",")
    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        parser.error(f"--only: {unknown[0]} is none of {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory() as folder:
        work = make_work(asked.work or Path(folder) / "work")
        functions = {"kills": kills, "corruptions": corruptions, "inputs": inputs, "hostile": hostile}
        figures = [each for part in PARTS if part in parts for each in functions[part](work, asked.quick)]
    write(asked.json, report("soak", figures, quick=asked.quick, parts=parts))
    show("Soak", figures)


if __name__ == "__main__":
    main()
