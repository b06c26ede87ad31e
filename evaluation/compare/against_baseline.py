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
    named = [pool for pool in pools if pool.name == name]
    named = named or [pool for pool in pools if any(name in (run.name, str(run.folder)) for run in pool.runs)]
    named = named or [pool for pool in pools if any(run.folder.name == name for run in pool.runs)]
    if len(named) != 1:
        known = ", ".join(pool.name for pool in pools[:12]) + (", …" if len(pools) > 12 else "")
        word = "several runs are" if named else "no run is"
        raise UserError(f"--baseline: {word} named '{name}': name one of {known}")
    if not named[0].evaluated:
        folder, split = named[0].runs[0].folder, named[0].split
        raise UserError(f"--baseline: '{name}' is not evaluated: run `equipoise evaluate {folder} --split {split}`")
    return named[0]


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
        results = [resampled.get(run.folder) for run in pool.evaluated]
        for reason in (result for result in results if isinstance(result, UserError)):
            notes.setdefault(f"no intervals for {pool.name}: {reason}")
        complete = [result for result in results if isinstance(result, Samples)]
        return complete if len(complete) == len(results) else None

    base_samples = samples(baseline)
    values = {}
    for pool in pools:
        if pool is baseline or not pool.evaluated:
            continue
        pool_samples = samples(pool)
        if pool_samples and base_samples and len({one.requests for one in (*pool_samples, *base_samples)}) > 1:
            notes.setdefault(f"no intervals for {pool.name}: it was evaluated on other requests than {baseline.name}")
            pool_samples = None
        values[pool.name] = {
            metric: _change(pool, baseline, metric, pool_samples, base_samples)
            for metric in metrics
            if metric in pool.metrics and metric in baseline.metrics
        }
    return Changes(baseline.name, tuple(metrics), values, tuple(notes))


def _resampled(
    pools: Sequence[SeedPool], metrics: Sequence[str], resampler: Resampler, advance: Callable[[], object]
) -> dict[Path, Samples | UserError]:
    """Run folder → its metrics in every resample, or why it has none; threads share what the runs have in common."""

    def resample(pool: SeedPool, run: RunRecord) -> Samples | UserError:
        known = metrics_of(run.evaluations[resampler.split])
        omegas = {name: pool.omegas.get(name.rpartition("/")[0], {}) for name in metrics if name in known}
        try:
            return resampler(run, omegas)
        except UserError as error:
            return error
        finally:
            advance()

    pairs = [(pool, run) for pool in pools for run in pool.evaluated]
    with ThreadPoolExecutor(THREADS) as threads:
        results = threads.map(lambda pair: resample(*pair), pairs)
        return {run.folder: samples for (_, run), samples in zip(pairs, results, strict=True)}


def _change(
    pool: SeedPool,
    baseline: SeedPool,
    metric: str,
    pool_samples: Sequence[Samples] | None,
    base_samples: Sequence[Samples] | None,
) -> Change:
    base = baseline.metrics[metric].mean
    difference = pool.metrics[metric].mean - base
    bounds = None
    if pool_samples and base_samples and all(metric in run.values for run in (*pool_samples, *base_samples)):
        pool_means, base_means = (
            np.mean([run.values[metric] for run in runs], axis=0) for runs in (pool_samples, base_samples)
        )
        low, high = interval(pool_means - base_means)
        bounds = (low, high) if low == low else None
    return Change(difference, 100 * difference / abs(base) if base else None, bounds)
