"""Δm: the mean relative change against single-objective runs (Maninis, Radosavovic & Kokkinos, CVPR 2019)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from equipoise.configs.objectives import BUILT_IN, known_spec
from equipoise.evaluation.compare.differences import differing
from equipoise.evaluation.compare.seeds import SeedPool
from equipoise.evaluation.metrics.metric_names import RELEVANCE, cutoff_of, direction


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


def common_cutoff(pools: Sequence[SeedPool]) -> int | None:
    """The largest k at which most evaluated pools have NDCG; None where none has."""
    counts = Counter(
        cutoff
        for pool in pools
        for cutoff in {cutoff_of(name) for name in pool.metrics if name.startswith(f"{RELEVANCE}/ndcg@")}
        if cutoff is not None
    )
    return max(counts, key=lambda cutoff: (counts[cutoff], cutoff)) if counts else None


def objective_metrics(pools: Sequence[SeedPool]) -> dict[str, str]:
    """Objective → the flat name of its metric, for every objective of any pool that has one.

    A list-wise objective is judged at the operating point that weighs it alone, the weight nearest to 1, which most
    pools have; one that was never measured so is left out.
    """
    runs = [run for pool in pools for run in pool.runs]
    names = dict.fromkeys(name for run in runs for name in run.objectives)
    cutoff = common_cutoff(pools)
    metrics = {}
    for objective in names:
        sections = [run.config["objectives"][objective] for run in runs if objective in run.objectives]
        alone, moved = metric_of(objective, sections)
        metric = alone or _listwise(pools, objective, moved, cutoff)
        if metric is not None and any(metric in pool.metrics for pool in pools):
            metrics[objective] = metric
    return metrics


def _listwise(pools: Sequence[SeedPool], objective: str, metric: str | None, cutoff: int | None) -> str | None:
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


BASE = "ctr"
"""Every objective builds on pCTR, so a run of another objective alone has this one too."""


@dataclass(frozen=True)
class DeltaM:
    """Δm of every pool that has all the objectives with a reference.

    Attributes:
        percent: pool name → 100 · mean over objectives of the signed relative change; positive is better.
        references: pool name → objective → the single-objective pool that it is held against.
        notes: sentences on what is missing.
    """

    percent: Mapping[str, float]
    references: Mapping[str, Mapping[str, str]]
    notes: Sequence[str]


def delta_m(pools: Sequence[SeedPool], metrics: Mapping[str, str]) -> DeltaM:
    """Δm against the single-objective runs among the pools, found by their objectives.

    A single-objective run of ctr has it alone; one of another objective has ctr and this one, if some run has more than
    these two: where ctr and cvr are all that is compared, a run of both is no reference. Of several, each pool is held
    against the one whose other settings (outside objectives and balancing) differ least from its own, and of equals
    against the best.

    Args:
        pools: that are compared.
        metrics: objective → the metric that it is judged by.
    """
    singles = {name: _singles(pools, name, metric) for name, metric in metrics.items()}
    tasks = [name for name in metrics if singles[name]]
    missing = [name for name in metrics if not singles[name]]
    if not tasks:
        note = "Δm is left out: no run of a single objective is among these (ctr alone, or ctr and one other objective)"
        return DeltaM({}, {}, [note])
    percent, references = {}, {}
    for pool in pools:
        if not all(name in pool.runs[0].objectives and metrics[name] in pool.metrics for name in tasks):
            continue
        held = {name: _nearest(pool, singles[name], metrics[name]) for name in tasks}
        changes = [_change(pool, held[name], metrics[name]) for name in tasks]
        percent[pool.name] = 100 * sum(changes) / len(changes)
        references[pool.name] = {name: single.name for name, single in held.items()}
    notes = [f"Δm is the mean over {', '.join(tasks)}, against {_told(references)}"] if percent else []
    if missing:
        notes.append(f"Δm leaves out {', '.join(missing)}: no run of ctr and that objective alone is among these")
    return DeltaM(percent, references, notes)


def _singles(pools: Sequence[SeedPool], objective: str, metric: str) -> list[SeedPool]:
    wanted = {BASE, objective}
    if objective != BASE and not any(set(pool.runs[0].objectives) > wanted for pool in pools):
        return []
    return [pool for pool in pools if set(pool.runs[0].objectives) == wanted and metric in pool.metrics]


def _nearest(pool: SeedPool, singles: Sequence[SeedPool], metric: str) -> SeedPool:
    def distance(single: SeedPool) -> int:
        keys = differing([pool.config, single.config])
        return sum(not key.startswith(("objectives.", "balancing.", "evaluate.")) for key in keys)

    sign = direction(metric)
    return min(singles, key=lambda single: (distance(single), -sign * single.metrics[metric].mean))


def _change(pool: SeedPool, single: SeedPool, metric: str) -> float:
    """The signed relative change; an undefined one (the reference is 0) is NaN."""
    base = single.metrics[metric].mean
    return direction(metric) * (pool.metrics[metric].mean - base) / abs(base) if base else float("nan")


def _told(references: Mapping[str, Mapping[str, str]]) -> str:
    """Who is held against whom, where it is the same for all; else how many there are."""
    pairs = {(name, single) for held in references.values() for name, single in held.items()}
    if len(pairs) <= len(next(iter(references.values()))):
        return ", ".join(f"{single} ({name})" for name, single in sorted(pairs))
    return "the single-objective run with the most like settings each"
