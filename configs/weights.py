"""Weights in a run configuration: how much each impression counts in losses, priors and metrics."""

from typing import Annotated, Any

from pydantic import Field, GetJsonSchemaHandler, model_validator

from equipoise.configs.section import Section

WAYS = ("column", "propensity", "reweigh")
"""Ways to weigh, of which a configuration names one."""


class WeightsConfig(Section):
    """How much each impression counts: by one of `column`, `propensity` and `reweigh`; a plain NAME is a column.

    Weights are divided by their mean over the train split. `reweigh` makes group and label independent in the train
    split: weight = P(group) · P(label) / P(group, label) (Kamiran & Calders 2012).
    """

    column: str | None = None
    """Column of impressions with weights of 0 or more; 0 leaves the impression out."""
    propensity: str | None = None
    """Column of impressions with the probability that each was shown (or logged), above 0 and at most 1; the weight is
    its inverse."""
    min_propensity: Annotated[float, Field(gt=0.0, le=1.0)] = 0.02
    """Lower propensities count as this one, so that no weight is above its inverse (clipping)."""
    self_normalize: bool = True
    """Divide the loss of a batch by the sum of its weights (less noise, a little bias); false divides by the number of
    its impressions."""
    reweigh: str | None = None
    """Column of impressions, items or users with the groups that shall be independent of `label`."""
    label: str = "click"
    """With `reweigh`: the label, a column of impressions of 0 and 1."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"column": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, handler(core_schema)]}

    @model_validator(mode="after")
    def _one_way(self) -> "WeightsConfig":
        named = [way for way in WAYS if getattr(self, way) is not None]
        if len(named) != 1:
            raise ValueError(f"weights names {' and '.join(named) or 'no way to weigh'}: name one of {', '.join(WAYS)}")
        return self

    @property
    def way(self) -> str:
        """column, propensity or reweigh."""
        return next(way for way in WAYS if getattr(self, way) is not None)

    @property
    def columns(self) -> list[str]:
        """Columns of the tables that it reads."""
        return [self.reweigh, self.label] if self.reweigh else [str(self.column or self.propensity)]

    def prepared(self) -> dict[str, Any]:
        """The settings that decide what a prepared folder holds."""
        of_way = {"propensity": ("propensity", "min_propensity"), "reweigh": ("reweigh", "label")}
        return {name: getattr(self, name) for name in of_way.get(self.way, ("column",))}
