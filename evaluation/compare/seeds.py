"""Runs of the same config with different seeds, taken together: means, standard deviations, and how many there are."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile

import numpy as np

from equipoise.evaluation.compare.differences import identity
from equipoise.evaluation.compare.run_records import RunRecord
from equipoise.evaluation.metrics.metric_names import metrics_of, operating_points

SEED_AT_END = re.compile(r"[\s_\-.,/=(+:]*(seed|s)?[\s_\-.,/=(+:]*$")


@dataclass(frozen=True)
class PooledValue:
    """A metric over seeds.

    Attributes:
        mean: over the runs that have it.
        deviation: sample standard deviation over them; None for one run.
        count: how many runs have it.
    """

    mean: float
    deviation: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "PooledValue":
        """Of one or more numbers."""
        return cls(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None, len(values))


@dataclass(frozen=True)
class SeedPool:
    """The runs of one config.

    Attributes:
        name: unique in the comparison.
        runs: its runs, one per seed, in the order given.
        split: that is compared.
    """

    name: str
    runs: tuple[RunRecord, ...]
    split: str

    @property
    def config(self) -> dict:
        """The config that they share, but for seed and names."""
        return self.runs[0].config

    @property
    def evaluated(self) -> tuple[RunRecord, ...]:
        """Its runs that were evaluated on the split."""
        return tuple(run for run in self.runs if self.split in run.evaluations)

    @cached_property
    def metrics(self) -> dict[str, PooledValue]:
        """Flat metric name → value over seeds."""
        return _pooled([metrics_of(run.evaluations[self.split]) for run in self.evaluated])

    @cached_property
    def points(self) -> dict[str, dict[str, PooledValue]]:
        """Operating point → metric without the point → value over seeds."""
        runs = [operating_points(run.evaluations[self.split]) for run in self.evaluated]
        names = dict.fromkeys(point.name for points in runs for point in points)
        return {name: _pooled([point.values for points in runs for point in points if point.name == name])
                for name in names}  # fmt: skip

    @cached_property
    def omegas(self) -> dict[str, Mapping[str, float]]:
        """Operating point → ω by objective."""
        runs = [operating_points(run.evaluations[self.split]) for run in self.evaluated]
        return {point.name: point.omega for points in runs for point in points}

    def cost(self, key: str) -> PooledValue | None:
        """A number of the summaries, over the finished runs that have it."""
        values = [run.summary[key] for run in self.runs if run.finished and _is_number(run.summary.get(key))]
        return PooledValue.of(values) if values else None


def pool_runs(records: Sequence[RunRecord], split: str) -> list[SeedPool]:
    """The runs grouped by config and project, in the order in which these are met.

    The same config in two projects is two pools: what differs between projects (data, people, machines) no config says.
    """
    groups: dict[tuple[str, str | None], list[RunRecord]] = {}
    for record in records:
        groups.setdefault((identity(record.config), record.project), []).append(record)
    runs = list(groups.values())
    names = unique_names([_common_name(group) for group in runs], [group[0] for group in runs])
    return [SeedPool(name, tuple(group), split) for name, group in zip(names, runs, strict=True)]


def run_names(records: Sequence[RunRecord]) -> list[str]:
    """A name for every run: that of its config, or with its folder where another run has the same."""
    return unique_names([record.name for record in records], records)


def unique_names(names: Sequence[str], records: Sequence[RunRecord]) -> list[str]:
    """The names, those that are not unique with the project of their record, or else its folder."""

    def doubled(some: Sequence[str]) -> set[str]:
        return {name for name in some if some.count(name) > 1}

    unique = list(names)
    for place_of in (
        lambda record: record.project or record.folder.name,
        lambda record: record.folder.name,
        lambda record: str(record.folder),
    ):
        same = doubled(unique)
        unique = [
            f"{name} ({place_of(record)})" if current in same else current
            for name, current, record in zip(names, unique, records, strict=True)
        ]
    return unique


def _common_name(runs: Sequence[RunRecord]) -> str:
    """What the names of the runs begin with, without a dangling word for the seed."""
    if len(runs) == 1:
        return runs[0].name
    columns = takewhile(lambda letters: len(set(letters)) == 1, zip(*(run.name for run in runs), strict=False))
    start = "".join(letters[0] for letters in columns)
    if any(run.name != start for run in runs):
        start = SEED_AT_END.sub("", start.rstrip("0123456789"))
    return start or runs[0].name


def _pooled(parts: Sequence[Mapping[str, float]]) -> dict[str, PooledValue]:
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: PooledValue.of([part[name] for part in parts if name in part]) for name in names}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
