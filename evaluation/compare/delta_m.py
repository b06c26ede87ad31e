"""Δm: the mean relative change over tasks against single-task runs (Maninis, Radosavovic & Kokkinos, CVPR 2019)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from equipoise.evaluation.compare.differences import differing
from equipoise.evaluation.compare.pool import Pool
from equipoise.evaluation.metrics.metric_names import direction

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


def delta_m(pools: Sequence[Pool], metrics: Mapping[str, str]) -> DeltaM:
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


def _singles(pools: Sequence[Pool], objective: str, metric: str) -> list[Pool]:
    wanted = {BASE, objective}
    if objective != BASE and not any(set(pool.runs[0].objectives) > wanted for pool in pools):
        return []
    return [pool for pool in pools if set(pool.runs[0].objectives) == wanted and metric in pool.metrics]


def _nearest(pool: Pool, singles: Sequence[Pool], metric: str) -> Pool:
    def distance(single: Pool) -> int:
        keys = differing([pool.config, single.config])
        return sum(not key.startswith(("objectives.", "balancing.", "evaluate.")) for key in keys)

    sign = direction(metric)
    return min(singles, key=lambda single: (distance(single), -sign * single.metrics[metric].mean))


def _change(pool: Pool, single: Pool, metric: str) -> float:
    """The signed relative change; an undefined one (the reference is 0) is NaN."""
    base = single.metrics[metric].mean
    return direction(metric) * (pool.metrics[metric].mean - base) / abs(base) if base else float("nan")


def _told(references: Mapping[str, Mapping[str, str]]) -> str:
    """Who is held against whom, where it is the same for all; else how many there are."""
    pairs = {(name, single) for held in references.values() for name, single in held.items()}
    if len(pairs) <= len(next(iter(references.values()))):
        return ", ".join(f"{single} ({name})" for name, single in sorted(pairs))
    return "the single-objective run with the most like settings each"
