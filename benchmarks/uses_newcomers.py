"""Use: shoppers unseen in training, on the test requests of a run."""

from pathlib import Path
from typing import Any

from benchmarks.figures import figure
from equipoise.evaluation.cold_start import measure_cold_start as newcomers

QUICK_REQUESTS = 40
NAMES = {
    "new, as told": "cold_start_gauc",
    "new, profile only": "cold_start_gauc_profile_only",
    "new, nothing told": "cold_start_gauc_nothing_told",
    "known": "known_gauc",
}


def measure(run: Path, quick: bool) -> list[dict[str, Any]]:
    """GAUC of new shoppers, told ever less about, beside popularity; and the ratio to known shoppers.

    Args:
        run: a trained run of the demo.
        quick: fewer requests of each group.

    Raises:
        UserError: the run is unfinished, or has no test request of new shoppers.
    """
    record = newcomers(run, QUICK_REQUESTS if quick else None, [])
    assert record is not None, "one process gathers all scores itself"
    found = []
    for group, name in NAMES.items():
        measured = record["groups"][group]
        found.append(figure(name, measured["pointwise"]["ctr"]["gauc"], "", requests=measured["requests"]))
    popularity = record["groups"]["new, as told"]["baselines"]["ctr"].get("popularity")
    if popularity:
        found.append(figure("cold_start_gauc_popularity", popularity["gauc"], ""))
    return [*found, figure("cold_start_gauc_ratio", record["gauc_ratio"], "× known shoppers")]
