"""Nights that go on from the night before, against trainings from nothing on all days; and a poisoned day."""

import json
import shutil
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.daily_shop import day_of, poison, shop_config, size_of, write_shop
from benchmarks.figures import figure
from equipoise.common.errors import UserError
from equipoise.configs.schema import RunConfig
from equipoise.nightly.night import Decision, run_night
from equipoise.nightly.state import DAY_REFUSED, PROMOTED

TRAINED = ("prepare", "compose", "train")
"""Steps whose seconds count: what a night does to have a model."""
COMPARED = 3
"""Nights, the last among them, on which a training from nothing is compared, in the whole form."""


def measure(work: Path, quick: bool) -> list[dict[str, Any]]:
    """Figures of gap, time and poison.

    Args:
        work: folder of the shop, its state and the trainings from nothing; a measurement that was stopped between two
            nights goes on (of a night that was stopped itself, the seconds would be those of its rest).
        quick: the small form.
    """
    size = size_of(quick)
    made = work / "size.json"
    if not made.exists():  # nights that are done are not repeated
        write_shop(work / "tables", size)
        made.write_text(json.dumps(asdict(size)) + "\n", "utf-8")
    elif json.loads(made.read_text("utf-8")) != asdict(size):
        raise UserError(f"{work} holds a shop of another size: name another folder")
    config = shop_config(work, size, quick)
    days = [day_of(size.before + number) for number in range(size.nights)]
    nights = {day: run_night(config, day, work / "state") for day in days}
    later = days[1:]
    chosen = sorted({later[int(n)] for n in np.linspace(0, len(later) - 1, 1 if quick else COMPARED)} | {later[-1]})
    anew = {day: _from_nothing(config, day, work / f"anew-{day}") for day in chosen}
    gaps = [_auc(anew[day]) - _auc(nights[day]) for day in chosen]
    ratios = [_seconds(nights[day]) / _seconds(anew[day]) for day in chosen]
    promoted = sum(night.action == PROMOTED for night in nights.values())
    told = {str(day): [round(_auc(anew[day]), 4), round(_auc(nights[day]), 4)] for day in chosen}
    return [
        figure("nightly_auc_gap", float(np.mean(gaps)), "AUC of ctr, from nothing − nightly", days=told),
        figure("nightly_time_ratio", float(np.mean(ratios)), "of the seconds of a training from nothing"),
        figure("nights_promoted", promoted, "nights", of=len(nights)),
        figure("poisoned_day_refused", int(_poisoned(config, work, day_of(size.before + size.nights))), "1: refused"),
    ]


def _from_nothing(config: RunConfig, day: date, state: Path) -> Decision:
    """The night of a day without a night before it; one that was stopped is timed anew, from its first second."""
    if not list(state.glob("nights/*.json")):
        shutil.rmtree(state, ignore_errors=True)
    return run_night(config, day, state)


def _auc(night: Decision) -> float:
    return night.record["figures"]["challenger"]["targets"]["ctr"]["auc"]


def _seconds(night: Decision) -> float:
    return sum(night.record["seconds"][step] for step in TRAINED)


def _poisoned(config: RunConfig, work: Path, day: date) -> bool:
    """Whether the night after the last one refuses a day whose labels are shuffled."""
    poison(work / "tables" / "impressions.parquet", day)
    return run_night(config, day, work / "state").action == DAY_REFUSED
