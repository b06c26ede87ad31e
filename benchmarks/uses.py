"""The five uses, each beside its baselines, and how faithful explanations are.

    python -m benchmarks.uses [--quick] --json FILE [--run runs/demo] [--export exports/demo] [--only ranking,pricing]

Ranking, new shoppers, campaigns and explanations are measured on the run and the export that `make demo` leaves;
recall and pricing train small models of their own, on The Complete Journey's products and on the simulator, whose true
demand is known.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.figures import report, show, write
from equipoise.common.errors import UserError

Measured = list[dict[str, Any]]


def parts(run: Path, export: Path, quick: bool) -> dict[str, Callable[[], Measured]]:
    """What can be measured, by name; nothing heavy is imported before it is asked for."""

    def ranking() -> Measured:
        from benchmarks.uses_ranking import measure_ranking

        return measure_ranking(run)

    def newcomers() -> Measured:
        from benchmarks.uses_ranking import measure_cold_start

        return measure_cold_start(run, quick)

    def recall() -> Measured:
        from benchmarks.uses_recall import measure

        return measure(quick)

    def campaign() -> Measured:
        from benchmarks.uses_campaign import measure

        return measure(run, quick)

    def pricing() -> Measured:
        from benchmarks.uses_pricing import measure

        return measure(quick)

    def explain() -> Measured:
        from benchmarks.uses_explain import measure

        return measure(export, quick)

    functions = (ranking, newcomers, recall, campaign, pricing, explain)
    return {part.__name__: part for part in functions}


def chosen_parts(asked: str | None, known: list[str]) -> list[str]:
    """The names in `--only`, or all.

    Raises:
        UserError: one is unknown.
    """
    names = known if asked is None else [name.strip() for name in asked.split(",")]
    for name in names:
        if name not in known:
            raise UserError(f"--only names '{name}': name some of {', '.join(known)}")
    return names


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="The five uses beside their baselines, and explanations.")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--quick", action="store_true", help="fewer requests and shorter trainings")
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="evaluated run of the demo")
    parser.add_argument("--export", type=Path, default=Path("exports/demo"), help="its export")
    parser.add_argument("--only", help="some parts, comma-separated")
    asked = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    all_parts = parts(asked.run, asked.export, asked.quick)
    figures: Measured = []
    try:
        for name in chosen_parts(asked.only, list(all_parts)):
            print(f"{name} …", flush=True)
            figures += all_parts[name]()
    except UserError as error:
        parser.exit(2, f"error: {error}\n")
    write(asked.json, report("uses", figures, quick=asked.quick, run=str(asked.run), export=str(asked.export)))
    show("The five uses", figures)


if __name__ == "__main__":
    main()
