"""Priors in a run configuration: the simple model that an objective begins as, and the comparison with the history."""

from typing import Annotated, Any, Literal

from pydantic import Field, GetJsonSchemaHandler, PositiveFloat, PositiveInt, model_validator

from equipoise.configs.section import Section


class PriorConfig(Section):
    """The simple model whose log-odds an objective begins as; a plain `trees` or `linear` stands for `{method: …}`.

    logit = a · prior + b + residual, with a = 1, b = 0 and residual = 0 at the start. Training rows are given
    out-of-fold predictions (folds by user), all others those of the full model.
    """

    method: Literal["trees", "linear", "column"] = "trees"
    """`trees` (LightGBM), `linear` (logistic regression), or `column`: the score of a model that you have already."""
    column: str | None = None
    """With `method: column`: the feature that holds its score."""
    scale: Literal["log_odds", "probability"] = "log_odds"
    """What that column holds."""
    columns: list[str] | None = None
    """Features, and computed columns, that trees and linear read; null takes all."""
    space: Literal["entire", "given"] = "entire"
    """Where another objective is given (cvr after click): fit the whole chain over all rows (`entire`), or its own
    label on rows where it was observed (`given`), which are few."""
    folds: Annotated[int, Field(ge=2)] = 5
    """Folds by user of the out-of-fold predictions of training rows, 2 or more."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"method": value}
        if isinstance(value, dict) and value.get("column") is not None and "method" not in value:
            return {"method": "column", **value}
        return value

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"enum": ["trees", "linear"], "type": "string"}, handler(core_schema)]}

    @model_validator(mode="after")
    def _column_belongs(self) -> "PriorConfig":
        if (self.method == "column") != (self.column is not None):
            raise ValueError("method: column and a column belong together: set both or neither")
        return self


class ComparisonConfig(Section):
    """How a candidate is compared with each thing of the shopper's history.

    A thing is a text: the title of an event, or of an item its column `item`. Frozen vectors of the texts and counts of
    shoppers who took both (strictly before the request) become columns of the priors; the heads of point-wise
    objectives compare the vectors by two learned projections.
    """

    item: str = "title"
    """Column of the items whose text is compared with the titles of events."""
    max_events: PositiveInt = 64
    """Most things of a history, the latest ones, that a candidate is compared with."""
    co_purchase: bool = True
    """Count which things the same shoppers took, strictly before each request."""
    half_life_days: PositiveFloat | None = None
    """Days after which a shopper's taking two things counts half; null lets it count for ever."""
    width: PositiveInt = 256
    """Length of the learned projections of the vectors; at most that of the backbone's vectors."""

    def prepared(self) -> dict[str, Any]:
        """The settings that decide what a prepared folder holds: all but the width."""
        return self.model_dump(mode="json", exclude={"width"})
