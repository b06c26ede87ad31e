"""Recall, new shoppers, prices, weights and campaigns beside what a shop would use instead.

    python -m benchmarks.uses_value [--quick] [--seeds 3] [--only recall,newcomers,pricing,weights,campaign] --json FILE

Each use has a module of its own (uses_value_NAME), which says what its figures are. Finished trainings lie in --work
and are not repeated.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from benchmarks.figures import report, show, write
from benchmarks.quality import RETAIL, find_retail
from benchmarks.uses_value_campaign import measure_campaign
from benchmarks.uses_value_newcomers import measure_newcomers
from benchmarks.uses_value_pricing import measure_pricing
from benchmarks.uses_value_recall import measure_recalls
from benchmarks.uses_value_weights import measure_weights
from equipoise.common.errors import UserError
from equipoise.common.logs import show_messages

ON_RETAIL = {"recall": measure_recalls, "newcomers": measure_newcomers}
SIMULATED = {"pricing": measure_pricing, "weights": measure_weights, "campaign": measure_campaign}
USES = (*ON_RETAIL, *SIMULATED)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="The other uses beside what a shop would use instead.")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--quick", action="store_true", help="one seed, few steps and requests: whether it runs at all")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each use")
    parser.add_argument("--only", default=",".join(USES), help=f"some of them, with commas: {', '.join(USES)}")
    parser.add_argument("--retail", type=Path, default=RETAIL, help="folder with Online Retail's file")
    parser.add_argument("--work", type=Path, default=Path("runs/uses_value"), help="prepared data, shops and runs")
    asked = parser.parse_args()
    uses = [use.strip() for use in asked.only.split(",") if use.strip()]
    if asked.seeds < 1:
        parser.error("--seeds must be 1 or more")
    if not uses:
        parser.error(f"--only names no use: use some of {', '.join(USES)}")
    if unknown := sorted(set(uses) - set(USES)):
        parser.error(f"--only has {', '.join(unknown)}: use some of {', '.join(USES)}")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    show_messages()
    seeds, work = (1, asked.work / "quick") if asked.quick else (asked.seeds, asked.work)
    figures: list[dict[str, Any]] = []
    try:
        for use in uses:
            figures += _figures(use, work / use, seeds, asked)
            write(asked.json, report("uses_value", figures, quick=asked.quick, seeds=seeds, only=uses))
    except UserError as error:
        parser.exit(2, f"error: {error}\n")
    show("The other uses beside what a shop would use instead", figures)


def _figures(use: str, work: Path, seeds: int, asked: argparse.Namespace) -> list[dict[str, Any]]:
    if use in ON_RETAIL:
        file = find_retail(asked.retail)
        if file is None:
            print(f"no file of Online Retail in {asked.retail}: retail_… is left out")
        return ON_RETAIL[use](work, seeds, asked.quick, file)
    return SIMULATED[use](work, seeds, asked.quick)


if __name__ == "__main__":
    main()
