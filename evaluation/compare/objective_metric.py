"""The one metric by which each objective is judged: its AUC, or what its adjustment alone does to the ranked lists."""

from collections import Counter
from collections.abc import Sequence

from equipoise.configs.objectives import BUILT_IN, known_spec
from equipoise.evaluation.compare.pool import Pool
from equipoise.evaluation.metrics.metric_names import RELEVANCE, cutoff_of


def metric_of(objective: str, sections: Sequence[object]) -> tuple[str | None, str | None]:
    """The flat metric of an objective that is judged alone, or the measure of ranked lists that it moves.

    Args:
        objective: its name.
        sections: its sections in the configs of runs; of an objective that is not built in the first one is read.
    """
    spec = BUILT_IN.get(objective) or known_spec(objective, next(iter(sections), None))
    if spec is None:
        return None, None
    return spec.metric, spec.axis.name if spec.kind == "listwise" and spec.axis else None


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
    runs = [run for pool in pools for run in pool.runs]
    names = dict.fromkeys(name for run in runs for name in run.objectives)
    cutoff = common_cutoff(pools)
    found = {}
    for objective in names:
        sections = [run.config["objectives"][objective] for run in runs if objective in run.objectives]
        alone, moved = metric_of(objective, sections)
        metric = alone or _listwise(pools, objective, moved, cutoff)
        if metric is not None and any(metric in pool.metrics for pool in pools):
            found[objective] = metric
    return found


def _listwise(pools: Sequence[Pool], objective: str, metric: str | None, cutoff: int | None) -> str | None:
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
