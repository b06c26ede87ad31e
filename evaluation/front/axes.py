"""The axes of a front: what is measured of each trade-off, always so that more is better."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from equipoise.common.errors import UserError
from equipoise.configs.objective_spec import OwnAxis
from equipoise.configs.objectives import BUILT_IN

BUILT_IN_AXES = {name: spec.axis.name for name, spec in BUILT_IN.items() if spec.axis is not None}
"""Objective → the axis that a weight on it means."""

WORDS = {
    "ndcg": "NDCG",
    "ndcg_click": "NDCG of clicks",
    "ndcg_conversion": "NDCG of conversions",
    "ild": "ILD",
    "exposure_ratio": "exposure min/max",
    "coverage": "coverage",
    "value": "value of conversions",
    "money": "money per request",
}
"""Axis → how it is called in tables and pictures."""


def axis_title(axis: str) -> str:
    """How tables and pictures call an axis; one of a user's own objective by its own name."""
    return WORDS.get(axis, axis)


@dataclass(frozen=True)
class Measured:
    """What the axes read of the items, and at which cutoff.

    Attributes:
        cutoff: the k of all axes.
        diversity_attributes: path of item attributes, coarse to fine; empty leaves `ild` out.
        category_attribute: whose values `coverage` counts; None leaves it out.
        provider_attribute: whose groups share exposure; None leaves `exposure_ratio` out.
        value_field: what a conversion of a row is worth; None leaves `value` out.
        own: measures that are not built in.
        objectives: objective → its axis, by which it may be named.
        money: whether logs of drawn lists tell what trade-offs would have earned.
    """

    cutoff: int
    diversity_attributes: tuple[str, ...] = ()
    category_attribute: str | None = None
    provider_attribute: str | None = None
    value_field: str | None = None
    own: tuple[OwnAxis, ...] = ()
    objectives: tuple[tuple[str, str], ...] = ()
    money: bool = False

    def axes(self, conversions: bool) -> tuple[str, ...]:
        """All axes that can be measured; `conversions` tells whether there are any."""
        measurable = {
            "ndcg": True,
            "ndcg_click": True,
            "ndcg_conversion": conversions,
            "ild": bool(self.diversity_attributes),
            "exposure_ratio": self.provider_attribute is not None,
            "coverage": self.category_attribute is not None,
            "value": self.value_field is not None and conversions,
            "money": self.money,
        }
        return (*(axis for axis in WORDS if measurable[axis]), *(axis.name for axis in self.own))


def read_axis(
    name: str, known: Sequence[str], cutoff: int, setting: str, objectives: Mapping[str, str] | None = None
) -> str:
    """The axis that a user named: by its own name, by that of its objective, with or without `@k`.

    Args:
        name: such as `ild`, `diversity` or `ndcg@10`.
        known: axes that are measured.
        cutoff: the k that they are measured at.
        place: the option, for the message.
        objectives: objective → its axis; the built-in ones where nothing is given.

    Raises:
        UserError: it is not measured, or at another cutoff.
    """
    plain, at, number = name.strip().partition("@")
    if at and number != str(cutoff):
        raise UserError(
            f"{setting}: '{name.strip()}' is measured at {cutoff}: write '{plain}', or set --cutoff {number}"
        )
    axis = plain if plain in known else (objectives or BUILT_IN_AXES).get(plain, plain)
    if axis not in known:
        raise UserError(f"{setting}: '{plain}' is not measured here: name one of {', '.join(known)}")
    return axis


def read_axes(
    text: str, known: Sequence[str], cutoff: int, objectives: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """`ndcg,ild` as axes; raises UserError for fewer than two, the same twice, or one that is not measured."""
    axes = tuple(read_axis(name, known, cutoff, "--axes", objectives) for name in text.split(",") if name.strip())
    if len(axes) < 2 or len(set(axes)) < len(axes):
        raise UserError(f"--axes {text}: a front needs two or more different axes: name some of {', '.join(known)}")
    return axes
