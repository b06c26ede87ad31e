"""The runs of a sweep, in a fixed order: what each sets, its random draws, its name, its validated configuration."""

import hashlib
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.common.errors import UserError
from equipoise.configs.load import as_override, build_config, read_settings
from equipoise.configs.schema import RunConfig
from equipoise.sweep.config import DrawConfig, RandomConfig, SweepConfig

DIGITS = 4


def draw_settings(random: RandomConfig) -> list[dict[str, Any]]:
    """`random.count` draws of every key, in order; draws that repeat an earlier one are left out."""
    streams = {
        key: draw_values(draw, np.random.default_rng([random.seed, *key.encode()]), random.count)
        for key, draw in random.draw.items()
    }
    draws = [dict(zip(streams, values, strict=True)) for values in zip(*streams.values(), strict=True)]
    return [draw for number, draw in enumerate(draws) if draw not in draws[:number]]


def draw_values(draw: DrawConfig, rng: np.random.Generator, count: int) -> list[Any]:
    """`count` values; real numbers have DIGITS significant digits, so that a run's name tells them exactly."""
    if draw.choice is not None:
        return [draw.choice[int(rng.integers(len(draw.choice)))] for _ in range(count)]
    if draw.integers is not None:
        return [int(rng.integers(draw.integers[0], draw.integers[1] + 1)) for _ in range(count)]
    if draw.log_uniform is not None:
        low, high = draw.log_uniform
        return [_rounded(math.exp(rng.uniform(math.log(low), math.log(high))), low, high) for _ in range(count)]
    assert draw.uniform is not None, "the schema sets one of the four"
    low, high = draw.uniform
    return [_rounded(rng.uniform(low, high), low, high) for _ in range(count)]


def _rounded(value: float, low: float, high: float) -> float:
    return min(max(float(f"{value:.{DIGITS}g}"), low), high)


LONGEST_VALUE = 32
LONGEST_NAME = 120


def short_keys(keys: Iterable[str]) -> dict[str, str]:
    """Each dotted key with the shortest end of it that no other key shares: `train.lr` → `lr`."""
    keys = list(dict.fromkeys(keys))
    ends = {key: [".".join(key.split(".")[-n:]) for n in range(1, key.count(".") + 2)] for key in keys}
    return {
        key: next((end for end in ends[key] if not any(end in ends[other] for other in keys if other != key)), key)
        for key in keys
    }


def value_text(value: Any) -> str:
    """A value as part of a name; what is long, or no single value, as the start of its hash."""
    if isinstance(value, str):
        text = re.sub(r"[^A-Za-z0-9._+-]+", "-", value).strip("-")
        return text if text and len(text) <= LONGEST_VALUE else f"{text[-24:]}-{digest(value)}".strip("-")
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    return digest(value)


def join_name(parts: Iterable[str]) -> str:
    """The name of a run from its parts; one that is too long ends in its hash."""
    name = "_".join(parts)
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 9]}-{digest(name)}"


def digest(value: Any) -> str:
    """Eight hexadecimal digits of the hash of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class SweptSetting:
    """What one run sets, before the schema.

    Attributes:
        parts: of its name, in order.
        settings: key → value, the sweep's common ones included.
    """

    parts: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    def also(self, part: str, settings: dict[str, Any]) -> "SweptSetting":
        """This choice and one more."""
        return SweptSetting((*self.parts, part), {**self.settings, **settings})


@dataclass(frozen=True)
class PlannedRun:
    """One run of the plan.

    Attributes:
        index: its place in the plan, from 0: its number in a Slurm array.
        name: of the run and of its folder.
        overrides: `key=value` over the base configuration.
        config: fully resolved.
    """

    index: int
    name: str
    overrides: tuple[str, ...]
    config: RunConfig

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.config.output


def make_plan(sweep: SweepConfig, draws: Sequence[dict[str, Any]] | None = None) -> list[PlannedRun]:
    """All runs of a sweep.

    Args:
        sweep: as configured.
        draws: those of a search so far; None takes all of `random`.

    Raises:
        UserError: the base cannot be read, a combination is refused by the schema, or two runs have one name.
    """
    choices = list(_choices(sweep, draws))
    names = [join_name(choice.parts) for choice in choices]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"two runs are both called '{twice[0]}': drop one, or give it a name of its own")
    base, runs, faults = read_settings(sweep.base), [], []
    for index, (name, choice) in enumerate(zip(names, choices, strict=True)):
        try:
            runs.append(plan_run(sweep, base, index, name, choice.settings))
        except UserError as error:
            faults.append(error)
    if faults:
        more = f" ({len(faults) - 1} of {len(choices)} other combinations are refused too)" if len(faults) > 1 else ""
        raise UserError(f"{faults[0]}{more}")
    return runs


def plan_run(sweep: SweepConfig, base: dict[str, Any], index: int, name: str, settings: dict[str, Any]) -> PlannedRun:
    """One run of a sweep.

    Args:
        sweep: whose folder and group it gets.
        base: the settings in `sweep.base`.
        index: its place in the plan.
        name: of the run and of its folder.
        settings: key → value over the base.

    Raises:
        UserError: the combination is refused; the run and its settings are named.
    """
    own = {"name": name, "output": str(sweep.output / name), "wandb.group": sweep.name}
    overrides = tuple(as_override(key, value) for key, value in settings.items())
    try:
        config = build_config(base, [*overrides, *(as_override(*item) for item in own.items())], sweep.base)
    except UserError as error:
        raise UserError(f"run {name} [{', '.join(overrides)}]: {error}") from error
    return PlannedRun(index, name, overrides, config)


def same_settings(runs: list[PlannedRun]) -> list[list[str]]:
    """Names of the runs that differ in nothing but their names."""
    groups: dict[str, list[str]] = {}
    for run in runs:
        settings = run.config.model_dump(mode="json", exclude={"name", "output"})
        groups.setdefault(json.dumps(settings, sort_keys=True), []).append(run.name)
    return [names for names in groups.values() if len(names) > 1]


def _choices(sweep: SweepConfig, draws: Sequence[dict[str, Any]] | None) -> Iterator[SweptSetting]:
    """Every cell of the grid with every draw, then the listed runs; each of them with every seed."""
    keys = [name for name, axis in sweep.grid.items() if isinstance(axis, list)]
    short = short_keys([*keys, *(sweep.random.draw if sweep.random else ()), *(["seed"] if sweep.seeds else [])])
    common = SweptSetting(settings=sweep.settings)
    varied = _varied(sweep, common, short, draws) if sweep.grid or sweep.random or not sweep.runs else iter(())
    listed = (common.also(name, settings) for name, settings in listed_runs(sweep))
    for choice in itertools.chain(varied, listed):
        if not sweep.seeds:
            yield choice
        for seed in sweep.seeds:
            yield choice.also(f"seed-{seed}", {"seed": seed})


def _varied(
    sweep: SweepConfig, common: SweptSetting, short: dict[str, str], draws: Sequence[dict[str, Any]] | None
) -> Iterator[SweptSetting]:
    steps: list[list[tuple[str, dict[str, Any]]]] = []
    for name, axis in sweep.grid.items():
        if isinstance(axis, list):
            steps.append([(f"{short[name]}-{value_text(value)}", {name: value}) for value in axis])
        else:
            steps.append(list(axis.items()))
    if draws is None:
        draws = draw_settings(sweep.random) if sweep.random else []
    for cell in itertools.product(*steps):
        choice = common
        for part, settings in cell:
            choice = choice.also(part, settings)
        if not draws:
            yield choice
        for draw in draws:
            drawn = choice
            for key, value in draw.items():
                drawn = drawn.also(f"{short[key]}-{value_text(value)}", {key: value})
            yield drawn


def listed_runs(sweep: SweepConfig) -> list[tuple[str, dict[str, Any]]]:
    """Name and settings of each of the sweep's `runs`; one without a name is called by its settings."""
    named = []
    for run in sweep.runs:
        settings = {key: value for key, value in run.items() if key != "name"}
        short = short_keys(settings)
        parts = [f"{short[key]}-{value_text(value)}" for key, value in settings.items()] or ["base"]
        named.append((run.get("name") or join_name(parts), settings))
    return named
