"""What one objective is, in one place: label or attributes, kind, loss, link, metrics, axis of the front, meaning.

Everything else (training, evaluation, front, comparison, export, serving) asks the spec. Nothing heavy is imported: the
loss is named, and loaded where a model is trained.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

import numpy as np

from equipoise.common.errors import UserError, format_error

GROUP = "equipoise.objectives"
"""The group of entry points by which a package brings objectives: NAME = "module:SPEC"."""

Form = Literal["binary", "value", "count"]
Gain = Callable[[Mapping[str, np.ndarray]], np.ndarray]
"""From item attribute → values of the rows, object (N,), to what showing each row is worth, float64 (N,)."""


@dataclass(frozen=True)
class OwnAxis:
    """A measure that is not built in, with the attributes that it reads in one run.

    `value` is its mean over the first k candidates of every request.
    """

    name: str
    attributes: tuple[str, ...]
    gain: Gain


@dataclass(frozen=True)
class Axis:
    """The measure of ranked lists that an objective moves: an axis of the front, always so that more is better.

    Attributes:
        name: a built-in measure (`ndcg_click`, `ndcg_conversion`, `ild`, `exposure_ratio`, `coverage`), or a new one.
        attributes: from the objective's options to the item attributes that the measure reads.
        gain: for a new one: from `attribute → values of the rows, object (N,)` to what showing each row earns, float64
            (N,); the measure is its mean over the first k candidates of every request, and more must be better.
    """

    name: str
    attributes: Callable[[Any], tuple[str, ...]] = lambda options: ()
    gain: Gain | None = None


@dataclass(frozen=True)
class ObjectiveSpec:
    """One objective.

    Attributes:
        name: as it is called in configs, adapters and exports.
        kind: `pointwise` (a number per candidate), `listwise` (an adjustment δ within the slate) or `retrieval`.
        options: the class of its section in a config.
        loss: its class, a subclass of `equipoise.train.objectives.base.Objective`, or where it is: `module:Class`.
        meaning: what its number says, for model cards and serving.json.
        form: of a pointwise objective: `binary`, `value` or `count`.
        label: the column of impressions that it learns.
        given: the binary objective whose label must be 1 for this label to be observed; None: every impression.
        positive: of a value: labels are never negative and predictions are above 0.
        title: of its probability or prediction in reports.
        metric: the flat name of the metric that it is judged by in comparisons, None for that of its axis.
        axis: the measure of ranked lists that it moves.
        term: of a list-wise objective, what it does to lists that are filled place after place (common/lists.py).
    """

    name: str
    kind: Literal["pointwise", "listwise", "retrieval"]
    options: type
    loss: str | type
    meaning: str
    form: Form | None = None
    label: str | None = None
    given: str | None = None
    positive: bool = False
    title: str = ""
    metric: str | None = None
    axis: Axis | None = field(default=None)
    term: Literal["spread", "price", "adjust"] = "adjust"

    @property
    def in_relevance(self) -> bool:
        """Whether a factor of it has a logarithm, so that a formula of relevance may name it."""
        return self.kind == "pointwise" and (self.form != "value" or self.positive)

    def loss_class(self) -> type:
        """The class of the loss; torch loads only here.

        Raises:
            UserError: it cannot be imported.
        """
        if isinstance(self.loss, type):
            return self.loss
        module, _, name = self.loss.partition(":")
        try:
            return getattr(import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise UserError(
                f"objective {self.name}: loss {self.loss} cannot be imported ({format_error(error)}): correct the spec"
            ) from error


def own_objectives() -> dict[str, EntryPoint]:
    """Objectives that installed packages bring, by name, not yet imported.

    Raises:
        UserError: two packages bring one name.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            raise UserError(
                f"two packages bring an objective '{point.name}' ({other.value} and {point.value}): uninstall one, or "
                "rename its entry point"
            )
    return found


def load_own(name: str, point: EntryPoint, taken: Mapping[str, object]) -> ObjectiveSpec:
    """The spec behind an entry point.

    Raises:
        UserError: the name is that of a built-in objective, the import fails, or what is there is not its spec.
    """
    where = f"entry point {GROUP}: {name} = {point.value}"
    if name in taken:
        raise UserError(f"{where} has the name of a built-in objective: rename it")
    try:
        spec = point.load()
    except Exception as error:
        raise UserError(f"{where} cannot be imported ({format_error(error)}): correct the package") from error
    if not isinstance(spec, ObjectiveSpec):
        raise UserError(f"{where} is not an ObjectiveSpec: name one")
    if spec.name != name:
        raise UserError(f"{where} is the spec of '{spec.name}': give both the same name")
    return spec


def nearest_name(name: str, known: list[str]) -> str:
    """A clause that names the nearest known name, or ""."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f" (did you mean '{close[0]}'?)" if close else ""
