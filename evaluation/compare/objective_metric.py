"""The one metric by which each objective is judged: its AUC, or what its adjustment alone does to the ranked lists."""

from collections import Counter
from collections.abc import Sequence

from equipoise.evaluation.compare.metric_names import RELEVANCE, cutoff_of
from equipoise.evaluation.compare.pool import Pool

ALONE = {"ctr": "ctr/auc", "cvr": "ctcvr/auc", "recall": "recall/all@200"}
LISTWISE = {"diversity": "ild", "fairness": "exposure_ratio", "coverage": "coverage"}


def common_cutoff(pools: Sequence[Pool]) -> int | None:
    """The largest k at which most evaluated pools have NDCG; None where none has."""
    counts = Counter(
        cutoff
        for pool in pools
        for cutoff in {cutoff_of(name) for name in pool.metrics if name.startswith(f"{RELEVANCE}/ndcg@")}
        if cutoff is not None
    )
    return max(counts, key=lambda cutoff: (counts[cutoff], cutoff)) if counts else None


def objective_metrics(pools: Sequence[Pool]) -> dict[str, str]:
    """Objective → the flat name of its metric, for every objective of any pool that has one.

    A list-wise objective is judged at the operating point that weighs it alone, the weight nearest to 1, which most
    pools have; one that was never measured so is left out.
    """
    names = dict.fromkeys(name for pool in pools for run in pool.runs for name in run.objectives)
    cutoff = common_cutoff(pools)
    found = {}
    for objective in names:
        metric = ALONE.get(objective) or _listwise(pools, objective, cutoff)
        if metric is not None and any(metric in pool.metrics for pool in pools):
            found[objective] = metric
    return found


def _listwise(pools: Sequence[Pool], objective: str, cutoff: int | None) -> str | None:
    metric = LISTWISE.get(objective)
    if metric is None or cutoff is None:
        return None
    places: Counter[str] = Counter()
    weights: dict[str, float] = {}
    for pool in pools:
        for name, omega in pool.omegas.items():
            if set(omega) == {objective} and f"{metric}@{cutoff}" in pool.points[name]:
                places[name] += 1
                weights[name] = omega[objective]
    if not places:
        return None
    best = max(places, key=lambda name: (places[name], -abs(weights[name] - 1)))
    return f"{best}/{metric}@{cutoff}"
