"""Everything that a comparison of runs says, ready to be written in any form."""

import fnmatch
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from equipoise.common.errors import UserError
from equipoise.evaluation.compare.against_baseline import Changes, changes_against, find_baseline
from equipoise.evaluation.compare.curves import drawn
from equipoise.evaluation.compare.differences import NOT_COMPARED, differing, setting
from equipoise.evaluation.compare.method_front import MethodFronts, check_axes, default_axes, method_fronts
from equipoise.evaluation.compare.relative_change import DeltaM, common_cutoff, delta_m, objective_metrics
from equipoise.evaluation.compare.run_records import BrokenRun, RunRecord
from equipoise.evaluation.compare.seeds import SeedPool, pool_runs
from equipoise.evaluation.metrics.metric_names import direction
from equipoise.evaluation.options import Question

BY = "balancing.method"
PROJECT = "wandb.project"
SAME = 1e-12
"""Means over a different number of equal values differ by rounding alone."""
SHORT = ("ctr/auc", "ctr/gauc", "ctr/ne", "ctcvr/auc", "ctcvr/gauc", "ctcvr/ne")


@dataclass(frozen=True)
class Comparison:
    """The answer.

    Attributes:
        question: that was asked.
        pools: runs by config, seeds together.
        broken: folders that could not be read.
        metrics: shown in tables, flat names.
        all_metrics: every metric that any pool has.
        settings: dotted key → value of each pool, where they differ.
        objectives: objective → the metric it is judged by.
        best: metric → names of the pools with the best mean.
        delta: Δm.
        changes: against the baseline; None without one.
        fronts: of the methods; None where nothing can be drawn.
        notes: sentences on what is missing or unfinished, and how to mend it.
    """

    question: Question
    pools: tuple[SeedPool, ...]
    broken: tuple[BrokenRun, ...]
    metrics: tuple[str, ...]
    all_metrics: tuple[str, ...]
    settings: dict[str, list[Any]]
    objectives: dict[str, str]
    best: dict[str, tuple[str, ...]]
    delta: DeltaM
    changes: Changes | None
    fronts: MethodFronts | None
    notes: tuple[str, ...]


def kept_for_curves(record: RunRecord) -> RunRecord:
    """The record with what curves show of its history, so that hundreds fit into memory."""
    return replace(record, history=[drawn(row) for row in record.history])


def compare(
    records: Sequence[RunRecord],
    broken: Sequence[BrokenRun],
    question: Question,
    advance: Callable[[], object] = lambda: None,
) -> Comparison:
    """Compare runs.

    Args:
        records: of the runs.
        broken: folders that could not be read, which are told in the notes.
        question: what is asked.
        advance: called after each run whose scores were resampled.

    Raises:
        UserError: the question names a metric, an axis, a setting or a baseline that no run has.
    """
    pools = pool_runs(records, question.split)
    known = tuple(dict.fromkeys(name for pool in pools for name in pool.metrics))
    objectives = objective_metrics(pools)
    metrics = _chosen(question.metrics, known, pools, objectives)
    if question.by != PROJECT and question.by.partition(".")[0] in NOT_COMPARED:
        raise UserError(f"--by {question.by}: runs that differ in it alone are one row: name another key, such as {BY}")
    if all(setting(pool.config, question.by) is None for pool in pools):
        raise UserError(f"--by {question.by}: no run has this setting: name a key of config.yaml, such as {BY}")
    axes = question.axes or default_axes(pools)
    if question.axes:
        check_axes(axes, pools)
    changes = None
    if question.baseline is not None:
        baseline = find_baseline(pools, question.baseline)
        changed = dict.fromkeys((*objectives.values(), *_ndcg(known, pools), *(metrics if question.metrics else ())))
        changes = changes_against(baseline, pools, list(changed), question.resamples, advance)
    delta = delta_m(pools, objectives)
    return Comparison(
        question,
        tuple(pools),
        tuple(broken),
        metrics,
        known,
        _differing(pools),
        objectives,
        {metric: _best(metric, pools) for metric in known},
        delta,
        changes,
        method_fronts(pools, axes, question.by),
        (*_run_notes(pools, broken), *delta.notes, *(changes.notes if changes else ())),
    )


def _chosen(
    patterns: Sequence[str], known: Sequence[str], pools: Sequence[SeedPool], objectives: dict[str, str]
) -> tuple[str, ...]:
    if not patterns:
        wanted = dict.fromkeys((*SHORT, *_ndcg(known, pools), *objectives.values()))
        return tuple(name for name in wanted if name in known)
    chosen: dict[str, None] = {}
    for pattern in patterns:
        matched = [name for name in known if fnmatch.fnmatchcase(name, pattern)]
        if not matched:
            some = ", ".join(known[:12]) or "none: evaluate the runs first"
            raise UserError(f"--metrics: no run has a metric '{pattern}': name some of those measured ({some}, …)")
        chosen |= dict.fromkeys(matched)
    return tuple(chosen)


def _differing(pools: Sequence[SeedPool]) -> dict[str, list[Any]]:
    """The settings that differ, after the projects where there are several."""
    projects = [pool.runs[0].project for pool in pools]
    several = {PROJECT: projects} if len(set(projects)) > 1 else {}
    return several | differing([pool.config for pool in pools])


def _ndcg(known: Sequence[str], pools: Sequence[SeedPool]) -> list[str]:
    name = f"relevance/ndcg@{common_cutoff(pools)}"
    return [name] if name in known else []


def _best(metric: str, pools: Sequence[SeedPool]) -> tuple[str, ...]:
    """Names of the pools with the best mean; none where neither way is better, or all are equal."""
    sign = direction(metric)
    means = {pool.name: sign * pool.metrics[metric].mean for pool in pools if metric in pool.metrics}
    if not sign or len(means) < 2:
        return ()
    top = max(means.values())
    if math.isclose(min(means.values()), top, rel_tol=SAME):
        return ()
    return tuple(name for name, mean in means.items() if math.isclose(mean, top, rel_tol=SAME))


def _run_notes(pools: Sequence[SeedPool], broken: Sequence[BrokenRun]) -> list[str]:
    notes = [f"broken: {broken_run.reason}" for broken_run in broken]
    for pool in pools:
        for run in pool.runs:
            if not run.finished:
                notes.append(f"unfinished: {run.folder} after step {run.steps}: train with --resume to go on")
            elif pool.split not in run.evaluations:
                command = f"equipoise evaluate {run.folder} --split {pool.split}"
                notes.append(f"not evaluated: {run.folder}: run `{command}`")
        short = [name for name, value in pool.metrics.items() if value.count < len(pool.evaluated)]
        if short:
            notes.append(
                f"{pool.name}: {', '.join(short[:4])} undefined in some of its runs; means are over the others"
            )
    return notes
