"""Labels besides click and conversion: which columns the objectives read, and what the train split says of them."""

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from equipoise.common.errors import UserError
from equipoise.common.link import Link, start_of
from equipoise.configs.objective_spec import ObjectiveSpec
from equipoise.configs.objectives import ObjectivesConfig, chain

KEPT = ("click", "conversion")
"""Labels that every prepared folder has."""


class LabelStats(BaseModel):
    """The label of one objective, and its observed rows of the train split.

    Attributes:
        label: the column.
        form: what is learnt of it.
        chain: columns that must be 1 for it to be observed, the first one first.
        positive: a value that is never below 0.
        rows, mean, std, least, most: of the observed labels of the train split.
    """

    model_config = ConfigDict(extra="forbid")

    label: str
    form: Literal["binary", "value", "count"]
    chain: list[str] = []
    positive: bool = False
    rows: int = 0
    mean: float = 0.0
    std: float = 0.0
    least: float = 0.0
    most: float = 0.0

    def same_question(self, other: "LabelStats") -> bool:
        """Whether both read the same column in the same way."""
        names = ("label", "form", "chain", "positive")
        return all(getattr(self, name) == getattr(other, name) for name in names)

    @property
    def link(self) -> Link:
        """From an output to the label's unit: values are scaled by their standard deviation."""
        if self.form == "binary":
            return Link()
        if self.form == "count":
            return Link("exp")
        return Link("softplus" if self.positive else "identity", self.std)

    @property
    def offset(self) -> float:
        """The output that gives the mean: where the head starts."""
        return start_of(self.link, self.mean)


def labels_of(objectives: ObjectivesConfig) -> dict[str, LabelStats]:
    """The labels of the pointwise objectives but ctr and cvr, by objective; their numbers are not known yet."""
    specs = objectives.specs()
    labels = {}
    for name, spec in specs.items():
        if spec.kind != "pointwise" or spec.label is None or spec.form is None or name in ("ctr", "cvr"):
            continue
        before = [str(specs[other].label) for other in chain(specs, name)]
        labels[name] = LabelStats(label=spec.label, form=spec.form, chain=before, positive=spec.positive)
    return labels


def labels_read(objectives: ObjectivesConfig) -> tuple[str, ...]:
    """Which of click and conversion the objectives read; a table may lack the others."""
    specs = objectives.specs()
    named = {spec.label for spec in specs.values()} | {"click"}  # candidates are sampled by it
    named |= {specs[other].label for name in specs for other in chain(specs, name)}
    return tuple(label for label in KEPT if label in named)


def columns_of_labels(labels: Mapping[str, LabelStats]) -> list[str]:
    """The columns to keep besides click and conversion, each once."""
    return [name for name in dict.fromkeys(spec.label for spec in labels.values()) if name not in KEPT]


def check_absent(objectives: ObjectivesConfig, absent: Sequence[str], folder: object) -> None:
    """Refuse a folder whose impressions had no click or no conversion, where an objective reads conversions.

    Raises:
        UserError: names the label.
    """
    if absent and "conversion" in labels_read(objectives):
        raise UserError(
            f"{folder} was prepared without {' and '.join(absent)}, which the objectives of this run read: fill that "
            "column of the impressions and run `equipoise prepare` again"
        )


def check_labels(labels: Mapping[str, LabelStats], prepared: Mapping[str, LabelStats], folder: object) -> None:
    """Refuse a folder that was prepared for other labels.

    Raises:
        UserError: names the objective.
    """
    for name, label in labels.items():
        if name not in prepared or not label.same_question(prepared[name]):
            raise UserError(
                f"{folder} was not prepared for objectives.{name} ({label.form} of {label.label}"
                f"{', given ' + ' and '.join(label.chain) if label.chain else ''}): run `equipoise prepare` again"
            )


def links_of(specs: Mapping[str, ObjectiveSpec], prepared: Mapping[str, LabelStats]) -> dict[str, Link]:
    """The link of every pointwise objective."""
    names = [name for name, spec in specs.items() if spec.kind == "pointwise"]
    return {name: prepared[name].link if name in prepared else Link() for name in names}
