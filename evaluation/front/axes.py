"""The axes of a front: what is measured of each trade-off, always so that more is better."""

from collections.abc import Sequence
from dataclasses import dataclass

from equipoise.common.errors import UserError

WORDS = {
    "ndcg": "NDCG",
    "ndcg_click": "NDCG of clicks",
    "ndcg_conversion": "NDCG of conversions",
    "ild": "ILD",
    "exposure_ratio": "exposure min/max",
    "coverage": "coverage",
    "value": "value of conversions",
}
"""Axis → how it is called in tables and pictures."""

OBJECTIVE_AXIS = {
    "ctr": "ndcg_click",
    "cvr": "ndcg_conversion",
    "diversity": "ild",
    "fairness": "exposure_ratio",
    "coverage": "coverage",
}
"""Objective → the axis that a weight on it means."""


@dataclass(frozen=True)
class Measured:
    """What the axes read of the items, and at which cutoff.

    Attributes:
        cutoff: the k of all axes.
        diversity_attributes: path of item attributes, coarse to fine; empty leaves `ild` out.
        category_attribute: whose values `coverage` counts; None leaves it out.
        provider_attribute: whose groups share exposure; None leaves `exposure_ratio` out.
        value_field: what a conversion of a row is worth; None leaves `value` out.
    """

    cutoff: int
    diversity_attributes: tuple[str, ...] = ()
    category_attribute: str | None = None
    provider_attribute: str | None = None
    value_field: str | None = None

    def axes(self, conversions: bool) -> tuple[str, ...]:
        """All axes that can be measured; `conversions` tells whether there are any."""
        there = {
            "ndcg": True,
            "ndcg_click": True,
            "ndcg_conversion": conversions,
            "ild": bool(self.diversity_attributes),
            "exposure_ratio": self.provider_attribute is not None,
            "coverage": self.category_attribute is not None,
            "value": self.value_field is not None and conversions,
        }
        return tuple(axis for axis in WORDS if there[axis])


def read_axis(name: str, known: Sequence[str], cutoff: int, place: str) -> str:
    """The axis that a user named: by its own name, by that of its objective, with or without `@k`.

    Args:
        name: such as `ild`, `diversity` or `ndcg@10`.
        known: axes that are measured.
        cutoff: the k that they are measured at.
        place: the option, for the message.

    Raises:
        UserError: it is not measured, or at another cutoff.
    """
    plain, at, number = name.strip().partition("@")
    if at and number != str(cutoff):
        raise UserError(f"{place}: '{name.strip()}' is measured at {cutoff}: write '{plain}', or set --cutoff {number}")
    axis = plain if plain in known else OBJECTIVE_AXIS.get(plain, plain)
    if axis not in known:
        raise UserError(f"{place}: '{plain}' is not measured here: name one of {', '.join(known)}")
    return axis


def read_axes(text: str, known: Sequence[str], cutoff: int) -> tuple[str, ...]:
    """`ndcg,ild` as axes; raises UserError for fewer than two, the same twice, or one that is not measured."""
    axes = tuple(read_axis(name, known, cutoff, "--axes") for name in text.split(",") if name.strip())
    if len(axes) < 2 or len(set(axes)) < len(axes):
        raise UserError(f"--axes {text}: a front needs two or more different axes: name some of {', '.join(known)}")
    return axes
