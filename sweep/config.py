"""The schema of a sweep: a base configuration and what is varied over it."""

import itertools
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from equipoise.common.errors import UserError
from equipoise.configs.load import explain, read_number, read_settings
from equipoise.configs.section import Section

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
LONGEST_LABEL = 100
OWN_KEYS = {"name": "it is made of what differs", "output": "it is the sweep's output and the run's name"}


def _numbers(value: Any) -> Any:
    """Texts such as 3e-4, wherever they stand, as the numbers that the command line reads in them."""
    if isinstance(value, dict):
        return {key: _numbers(sub) for key, sub in value.items()}
    if isinstance(value, list):
        return [_numbers(sub) for sub in value]
    return read_number(value) if isinstance(value, str) else value


def _label(text: str) -> str:
    if not LABEL.fullmatch(text) or len(text) > LONGEST_LABEL:
        raise ValueError(
            f"'{text}' names a folder: use at most {LONGEST_LABEL} letters, digits and . _ + -, a letter or digit first"
        )
    return text


def _own(settings: dict[str, Any]) -> dict[str, Any]:
    for key in settings:
        name = key.split(".")[0]
        if name in OWN_KEYS:
            raise ValueError(f"'{key}' is set by the sweep ({OWN_KEYS[name]}): drop it")
        if key in ("wandb", "wandb.group"):
            raise ValueError(
                f"'{key}' is set by the sweep (the group is its name): drop it, or set wandb.mode and others"
            )
    return settings


def _listed(run: dict[str, Any]) -> dict[str, Any]:
    if "name" in run:
        _label(str(run["name"]))
    return {**_own({key: value for key, value in run.items() if key != "name"}), **_named(run)}


def _named(run: dict[str, Any]) -> dict[str, Any]:
    return {"name": str(run["name"])} if "name" in run else {}


Label = Annotated[str, AfterValidator(_label)]
Settings = Annotated[dict[str, Any], BeforeValidator(_numbers), AfterValidator(_own)]
ListedRun = Annotated[dict[str, Any], BeforeValidator(_numbers), AfterValidator(_listed)]
Values = Annotated[list[Any], BeforeValidator(_numbers), Field(min_length=1)]
EvaluatedSplit = Literal["valid", "test"]
Axis = list[Any] | dict[str, dict[str, Any]]


class DrawConfig(Section):
    """From what a value is drawn, one of: bounds of a (log-)uniform number, bounds of whole numbers, a list."""

    uniform: tuple[float, float] | None = None
    """Bounds of a uniform number, the lower first."""
    log_uniform: tuple[float, float] | None = None
    """Bounds, above 0, of a number whose logarithm is uniform."""
    integers: tuple[int, int] | None = None
    """Bounds of a whole number, both included."""
    choice: Values | None = None
    """Values of which one is drawn."""

    @field_validator("uniform", "log_uniform", mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        return _numbers(value)

    @model_validator(mode="after")
    def _one_way(self) -> "DrawConfig":
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("give one of uniform, log_uniform, integers and choice")
        bounds = self.uniform or self.log_uniform or self.integers
        if bounds is not None and not bounds[0] < bounds[1]:
            raise ValueError(f"{given[0]} needs its lower bound first, not {list(bounds)}")
        if self.log_uniform is not None and self.log_uniform[0] <= 0:
            raise ValueError("log_uniform needs bounds above 0")
        return self


class RandomConfig(Section):
    """`count` draws of all keys in `draw`; each key has a stream of its own, so more draws or keys keep the first."""

    count: PositiveInt
    """Number of draws."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the draws; more draws or keys keep the first ones."""
    draw: Annotated[dict[str, DrawConfig], Field(min_length=1), AfterValidator(_own)]
    """Key → from what its value is drawn."""


class EvaluateStepConfig(Section):
    """The splits that every run is evaluated on after its training."""

    split: Annotated[list[EvaluatedSplit], Field(min_length=1)] = Field(default=["test"])
    """valid, test or both."""

    @field_validator("split", mode="before", json_schema_input_type=EvaluatedSplit | list[EvaluatedSplit])
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class SlurmConfig(Section):
    """How the runs become one Slurm array."""

    options: dict[str, bool | int | str] = Field(default_factory=dict)
    """Options of sbatch, without the dashes (`partition: gpu`); true is one without a value."""
    setup: list[str] = Field(default_factory=list)
    """Shell lines before each run, such as `module load cuda`."""
    at_once: PositiveInt | None = None
    """Tasks at the same time; null leaves it to Slurm."""
    after_options: dict[str, bool | int | str] | None = None
    """Options of the job that ends the sweep; null takes `options`."""

    @model_validator(mode="after")
    def _own_options(self) -> "SlurmConfig":
        for name in (*self.options, *(self.after_options or {})):
            if name.startswith("-"):
                raise ValueError(f"option '{name}' is written without its dashes: {name.lstrip('-')}")
            if name in ("array", "dependency"):
                raise ValueError(f"option '{name}' is set by the sweep: drop it")
        return self


class MetricConfig(Section):
    """What a W&B sweep looks at, under the name that training logs it."""

    name: str
    """Metric under the name that training logs it."""
    goal: Literal["maximize", "minimize"]
    """maximize or minimize."""


class GoalConfig(Section):
    """A number of the evaluation that a search makes large or small."""

    metric: str
    """Its name as `equipoise compare` has it, such as ctr/auc or diversity=1/ild@10."""
    goal: Literal["maximize", "minimize"] | None = None
    """maximize or minimize; null takes the way that is known to be better."""


class SearchConfig(Section):
    """Several goals at once: after the first draws, each next one is proposed from the results so far (ParEGO)."""

    goals: Annotated[list[GoalConfig], Field(min_length=2)]
    """At least two metrics of the first split of `evaluate`, as names or {metric, goal}."""
    start: PositiveInt | None = None
    """Independent draws before the first proposal; null: twice the keys of random.draw, 4 at least."""

    @field_validator("goals", mode="before", json_schema_input_type=list[str | GoalConfig])
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return (
            [{"metric": goal} if isinstance(goal, str) else goal for goal in value]
            if isinstance(value, list)
            else value
        )

    @model_validator(mode="after")
    def _each_once(self) -> "SearchConfig":
        names = [goal.metric for goal in self.goals]
        if len(set(names)) < len(names):
            raise ValueError("goals names a metric twice: drop it")
        return self


class WandbSweepConfig(Section):
    """How W&B draws when its agent drives the sweep; `method` null is grid, or random where something is drawn."""

    method: Literal["grid", "random", "bayes"] | None = None
    """How W&B's agent draws; null is grid, or random where something is drawn."""
    metric: MetricConfig | None = None
    """What it looks at; bayes and early_terminate need it."""
    early_terminate: dict[str, Any] | None = None
    """W&B's own settings for ending poor runs."""

    @model_validator(mode="after")
    def _metric_where_needed(self) -> "WandbSweepConfig":
        if self.metric is None and (self.method == "bayes" or self.early_terminate):
            raise ValueError("method bayes and early_terminate need a metric: add wandb.metric")
        return self


class SweepConfig(Section):
    """What is run: every cell of `grid` with every draw of `random`, then each of `runs`; all of them per seed."""

    name: Label
    """Name of the sweep, and its runs' `wandb.group`."""
    base: Path
    """Run configuration that everything is varied over."""
    output: Path
    """Folder of the run folders."""
    settings: Settings = Field(default_factory=dict)
    """Settings of every run; axes and runs win over them."""
    grid: dict[str, Any] = Field(default_factory=dict)
    """Axis → its values: a key with a list of values, or any name with labelled sets of settings."""
    runs: list[ListedRun] = Field(default_factory=list)
    """Single runs as settings, with an optional `name`."""
    random: RandomConfig | None = None
    """Draws of settings, each cell of the grid with every draw."""
    search: SearchConfig | None = None
    """Goals by which draws of `random` after the first ones are proposed; null draws all independently."""
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default_factory=list)
    """Values of `seed`; every run once per seed."""
    parallel: PositiveInt = 1
    """Runs at the same time on this machine."""
    threads: PositiveInt | None = None
    """Of each process; null shares the cores among the parallel runs."""
    gpus: PositiveInt | None = None
    """GPUs that each of the parallel runs gets for itself; null lets every run see all."""
    accelerate: Path | None = None
    """Config file of `accelerate launch`; null starts one plain process."""
    evaluate: EvaluateStepConfig | None = None
    """What is evaluated after each training; null evaluates nothing."""
    after: Literal["compare"] | None = None
    """What ends the sweep: `compare`, or null for nothing."""
    slurm: SlurmConfig = Field(default_factory=SlurmConfig)
    """How the runs become one Slurm array."""
    wandb: WandbSweepConfig = Field(default_factory=WandbSweepConfig)
    """How W&B's agent drives the sweep."""

    @field_validator("grid")
    @classmethod
    def _axes(cls, grid: dict[str, Any]) -> dict[str, Axis]:
        return {name: _axis(name, _numbers(values)) for name, values in grid.items()}

    @model_validator(mode="after")
    def _keys_of_their_own(self) -> "SweepConfig":
        owners = {f"grid.{name}": _keys(name, axis) for name, axis in self.grid.items()}
        owners["random.draw"] = set(self.random.draw if self.random else ())
        if self.seeds:
            owners |= {"seeds": {"seed"}}
            if any("seed" in run for run in self.runs):
                raise ValueError("seeds and a run of `runs` both set 'seed': drop one of them")
        for one, two in itertools.combinations(owners, 2):
            for key in sorted(owners[one]):
                if any(_meet(key, other) for other in owners[two]):
                    raise ValueError(f"{one} and {two} both set '{key}': let one of them do it")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds names one twice: drop it")
        if self.search is not None:
            missing = [name for name in ("random", "evaluate") if getattr(self, name) is None]
            if missing:
                raise ValueError(f"search proposes draws from evaluations: add {missing[0]}")
            other = [name for name in ("grid", "runs") if getattr(self, name)]
            if other:
                raise ValueError(f"search varies random.draw alone: move what {other[0]} sets there, or drop search")
        if not (self.grid or self.runs or self.random or self.seeds):
            raise ValueError("nothing is varied: add grid, runs, random or seeds")
        return self


def _axis(name: str, values: Any) -> Axis:
    """An axis as the plan reads it: a list of values of the key `name`, or label → settings."""
    if isinstance(values, list) and values:
        _own({name: None})
        return values
    if not isinstance(values, dict) or not values:
        raise ValueError(f"'{name}' needs a list of values, or labels with settings")
    for label, settings in values.items():
        _label(str(label))
        if settings is not None and not isinstance(settings, dict):
            raise ValueError(f"'{name}.{label}' needs settings, such as {{train.lr: 1.0e-3}}, not {settings!r}")
    return {str(label): _own(settings or {}) for label, settings in values.items()}


def _keys(name: str, axis: Axis) -> set[str]:
    return {name} if isinstance(axis, list) else {key for settings in axis.values() for key in settings}


def _meet(one: str, two: str) -> bool:
    return one == two or one.startswith(f"{two}.") or two.startswith(f"{one}.")


def load_sweep(path: Path) -> SweepConfig:
    """The validated sweep in a YAML file; its base and its runs are not read yet.

    Raises:
        UserError: the file is missing or no YAML mapping, or a key is unknown or refused; all faults are named.
    """
    try:
        return SweepConfig.model_validate(read_settings(path))
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error, SweepConfig)}") from error
