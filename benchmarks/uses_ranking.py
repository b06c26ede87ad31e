"""Use: personalised ranking of given candidates, on the scored test requests of a run."""

import json
from pathlib import Path
from typing import Any

from benchmarks.figures import figure
from equipoise.common.errors import UserError

CUTOFF = 10


def measure(run: Path) -> list[dict[str, Any]]:
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
    found = [
        figure("rank_ndcg10", plain[key], "", requests=report["requests"]),
        figure("rank_gauc", report["pointwise"]["ctr"]["gauc"], ""),
    ]
    for suffix, name in (("popularity", "popularity"), ("bought_before", "times_bought")):
        if name in baselines:
            found.append(figure(f"rank_ndcg10_{suffix}", baselines[name][key], ""))
            found.append(figure(f"rank_gauc_{suffix}", baselines[name]["gauc"], ""))
    return found
