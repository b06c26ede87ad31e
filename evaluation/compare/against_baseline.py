"""How far each pool is from a named baseline, metric by metric, with paired bootstrap intervals over requests."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from equipoise.common.errors import UserError
from equipoise.evaluation.compare.resampled import Resampler, Samples
from equipoise.evaluation.compare.run_records import RunRecord
from equipoise.evaluation.compare.seeds import SeedPool
from equipoise.evaluation.metrics.bootstrap import interval
from equipoise.evaluation.metrics.metric_names import direction, metrics_of

THREADS = 2
"""Sorting and sums leave the interpreter free, so two runs are resampled at once."""


@dataclass(frozen=True)
class Change:
    """A metric of a pool less that of the baseline.

    Attributes:
        difference: of the means over seeds, in the metric's own unit.
        percent: of the baseline's value; None where that is 0.
        interval: of the difference at 95 %, over resampled requests; None where there is none.
    """

    difference: float
    percent: float | None
    interval: tuple[float, float] | None

    def verdict(self, metric: str) -> int:
        """1 where the interval says better, −1 where worse, 0 where it does not tell."""
        if self.interval is None:
            return 0
        low, high = self.interval
        return direction(metric) * (1 if low > 0 else -1 if high < 0 else 0)


@dataclass(frozen=True)
class Changes:
    """Changes of all pools but the baseline.

    Attributes:
        baseline: name of its pool.
        metrics: that were asked for.
        values: pool name → metric → change.
        notes: sentences on missing intervals.
    """

    baseline: str
    metrics: tuple[str, ...]
    values: Mapping[str, Mapping[str, Change]]
    notes: tuple[str, ...]


def find_baseline(pools: Sequence[SeedPool], name: str) -> SeedPool:
    """The pool that a user named: by its own name, or by the name or the folder of one of its runs.

    Raises:
        UserError: none is named so, or several are, or it has no evaluation.
    """
    found = [pool for pool in pools if pool.name == name]
    found = found or [pool for pool in pools if any(name in (run.name, str(run.folder)) for run in pool.runs)]
    found = found or [pool for pool in pools if any(run.folder.name == name for run in pool.runs)]
    if len(found) != 1:
        known = ", ".join(pool.name for pool in pools[:12]) + (", …" if len(pools) > 12 else "")
        word = "several runs are" if found else "no run is"
        raise UserError(f"--baseline: {word} named '{name}': name one of {known}")
    if not found[0].evaluated:
        folder, split = found[0].runs[0].folder, found[0].split
        raise UserError(f"--baseline: '{name}' is not evaluated: run `equipoise evaluate {folder} --split {split}`")
    return found[0]


def changes_against(
    baseline: SeedPool,
    pools: Sequence[SeedPool],
    metrics: Sequence[str],
    resamples: int,
    advance: Callable[[], object] = lambda: None,
) -> Changes:
    """The changes of every evaluated pool but the baseline.

    The interval tells how far the difference hangs on the requests that happened to be in the split; in each resample
    the metric is averaged over the seeds of a pool. What other seeds would give is in the standard deviations.

    Args:
        baseline: one of the pools.
        pools: all of them.
        metrics: flat names.
        resamples: of the requests; 0 leaves intervals out.
        advance: called after each run.
    """
    notes: dict[str, None] = {}
    resampled = _resampled(pools, metrics, Resampler(baseline.split, resamples), advance) if resamples else {}

    def samples(pool: SeedPool) -> list[Samples] | None:
        found = [resampled.get(run.folder) for run in pool.evaluated]
        for reason in (one for one in found if isinstance(one, UserError)):
            notes.setdefault(f"no intervals for {pool.name}: {reason}")
        whole = [one for one in found if isinstance(one, Samples)]
        return whole if len(whole) == len(found) else None

    theirs = samples(baseline)
    values = {}
    for pool in pools:
        if pool is baseline or not pool.evaluated:
            continue
        ours = samples(pool)
        if ours and theirs and len({found.requests for found in (*ours, *theirs)}) > 1:
            notes.setdefault(f"no intervals for {pool.name}: it was evaluated on other requests than {baseline.name}")
            ours = None
        values[pool.name] = {
            metric: _change(pool, baseline, metric, ours, theirs)
            for metric in metrics
            if metric in pool.metrics and metric in baseline.metrics
        }
    return Changes(baseline.name, tuple(metrics), values, tuple(notes))


def _resampled(
    pools: Sequence[SeedPool], metrics: Sequence[str], resampler: Resampler, advance: Callable[[], object]
) -> dict[Path, Samples | UserError]:
    """Run folder → its metrics in every resample, or why it has none; threads share what the runs have in common."""

    def one(pool: SeedPool, run: RunRecord) -> Samples | UserError:
        known = metrics_of(run.evaluations[resampler.split])
        wanted = {name: pool.omegas.get(name.rpartition("/")[0], {}) for name in metrics if name in known}
        try:
            return resampler(run, wanted)
        except UserError as error:
            return error
        finally:
            advance()

    pairs = [(pool, run) for pool in pools for run in pool.evaluated]
    with ThreadPoolExecutor(THREADS) as threads:
        found = threads.map(lambda pair: one(*pair), pairs)
        return {run.folder: samples for (_, run), samples in zip(pairs, found, strict=True)}


def _change(
    pool: SeedPool, baseline: SeedPool, metric: str, ours: Sequence[Samples] | None, theirs: Sequence[Samples] | None
) -> Change:
    base = baseline.metrics[metric].mean
    difference = pool.metrics[metric].mean - base
    found = None
    if ours and theirs and all(metric in run.values for run in (*ours, *theirs)):
        mine, other = (np.mean([run.values[metric] for run in runs], axis=0) for runs in (ours, theirs))
        low, high = interval(mine - other)
        found = (low, high) if low == low else None
    return Change(difference, 100 * difference / abs(base) if base else None, found)
