"""Use cases: ranking given candidates, and cold-start users, on the test requests of a run."""

import json
from pathlib import Path
from typing import Any

from benchmarks.figures import figure
from equipoise.common.errors import UserError
from equipoise.evaluation import cold_start

CUTOFF = 10
QUICK_REQUESTS = 40
COLD_START_FIGURES = {
    "new, as told": "cold_start_gauc",
    "new, profile only": "cold_start_gauc_profile_only",
    "new, nothing told": "cold_start_gauc_nothing_told",
    "known": "known_gauc",
}


def measure_ranking(run: Path) -> list[dict[str, Any]]:
    """NDCG@10 and GAUC of pure relevance, and of what any shop knows: popularity and how often bought before.

    Args:
        run: an evaluated run of the demo.

    Raises:
        UserError: the run is not evaluated, or without NDCG@10.
    """
    path = run / "evaluation_test.json"
    if not path.is_file():
        raise UserError(f"{path} is missing: run `equipoise evaluate {run}` first")
    report = json.loads(path.read_text("utf-8"))
    key = f"ndcg@{CUTOFF}"
    plain = next((point for point in report["ranking"] if not any(point["omega"].values())), None)
    if plain is None or key not in plain:
        raise UserError(
            f"{path} has no {key} of pure relevance: put {{}} into evaluate.omegas and {CUTOFF} into cutoffs"
        )
    baselines = report["baselines"]["ctr"]
    entries = [
        figure("rank_ndcg10", plain[key], "", requests=report["requests"]),
        figure("rank_gauc", report["pointwise"]["ctr"]["gauc"], ""),
    ]
    for suffix, name in (("popularity", "popularity"), ("bought_before", "times_bought")):
        if name in baselines:
            entries.append(figure(f"rank_ndcg10_{suffix}", baselines[name][key], ""))
            entries.append(figure(f"rank_gauc_{suffix}", baselines[name]["gauc"], ""))
    return entries


def measure_cold_start(run: Path, quick: bool) -> list[dict[str, Any]]:
    """GAUC of cold-start users, with ever fewer fields included, next to popularity; and the ratio to known users.

    Args:
        run: a trained run of the demo.
        quick: fewer requests of each group.

    Raises:
        UserError: the run is unfinished, or has no test request of cold-start users.
    """
    record = cold_start.measure_cold_start(run, QUICK_REQUESTS if quick else None, [])
    assert record is not None, "one process gathers all scores itself"
    entries = []
    for group, name in COLD_START_FIGURES.items():
        measured = record["groups"][group]
        entries.append(figure(name, measured["pointwise"]["ctr"]["gauc"], "", requests=measured["requests"]))
    popularity = record["groups"]["new, as told"]["baselines"]["ctr"].get("popularity")
    if popularity:
        entries.append(figure("cold_start_gauc_popularity", popularity["gauc"], ""))
    return [*entries, figure("cold_start_gauc_ratio", record["gauc_ratio"], "× known shoppers")]
