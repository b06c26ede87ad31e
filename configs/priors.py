"""Priors in a run configuration: the simple model that an objective begins as, and the comparison with the history."""

from typing import Annotated, Any, Literal

from pydantic import Field, GetJsonSchemaHandler, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from equipoise.configs.section import Section


class PriorConfig(Section):
    """The simple model whose log-odds an objective begins as; a plain `trees`, `linear`, `best` or
    `blend` is its method.

    logit = a · prior + b + residual, with a = 1, b = 0 and residual = 0 at the start. Training rows are given
    out-of-fold predictions (folds by user), all others those of the full model, of a blend those of all its models.
    """

    method: Literal["trees", "linear", "best", "blend", "column"] = "trees"
    """`trees` (LightGBM), `linear` (logistic regression; rates are read as log-odds), the `best` of the two by log loss
    on the valid split, a `blend` of both (mean log-odds of the trees and of those that leave out a fold each, and the
    linear model's by the share that suits out-of-fold rows), or `column`: the score of a model that you have
    already."""
    column: str | None = None
    """With `method: column`: the feature that holds its score."""
    scale: Literal["log_odds", "probability"] = "log_odds"
    """What that column holds."""
    columns: Annotated[list[str], Field(min_length=1)] | None = None
    """Features, and computed columns, that trees and linear read; null takes all."""
    leave_out: list[str] = Field(default_factory=list)
    """Of all columns, those that trees and linear do not read; evaluate's own trees read them all the same."""
    space: Literal["entire", "given"] = "entire"
    """Where another objective is given (cvr after click): fit the whole chain over all rows (`entire`), or its own
    label on rows where it was observed (`given`), which are few."""
    interactions: list[list[str]] = Field(default_factory=list)
    """With `method: linear`: pairs of columns whose products are read too, such as `[price, attitude]`, which gives
    each attitude a price response of its own; one of the two is a number. Numbers of scale `log` are read as logarithms
    then."""
    max_categories: PositiveInt = 64
    """Texts of a category that `linear` tells apart, the ones most often shown."""
    resamples: NonNegativeInt = 0
    """With `method: linear`: bootstrap resamples of users whose coefficients are kept, so that prices have intervals;
    200 suit pricing, 0 keeps none."""
    fallback: str | None = None
    """Of a fitted prior: the one number, such as popularity, that ranks for shoppers of whom nothing is known.
    Where all that the prior reads of `data.behaviour` and of rates by user is unknown, it is a logistic regression on
    that number; null asks the model there too."""
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
        return {"anyOf": [{"enum": ["trees", "linear", "best", "blend"], "type": "string"}, handler(core_schema)]}

    @model_validator(mode="after")
    def _column_belongs(self) -> "PriorConfig":
        if (self.method == "column") != (self.column is not None):
            raise ValueError("method: column and a column belong together: set both or neither")
        for name in ("interactions", "resamples"):
            if getattr(self, name) and self.method != "linear":
                raise ValueError(f"{name} belong to method: linear: set that, or leave them out")
        if self.leave_out and self.method == "column":
            raise ValueError("leave_out belongs to trees, linear, best or blend: leave it out")
        if self.leave_out and self.columns:
            raise ValueError("leave_out and columns say the same twice: set one of them")
        for column in {self.fallback, *(each for pair in self.interactions for each in pair)} & set(self.leave_out):
            raise ValueError(f"leave_out has '{column}', which fallback or interactions read: take it out of the list")
        if self.fallback and (self.resamples or self.method == "column"):
            raise ValueError("fallback belongs to trees, best, blend, or linear without resamples: leave it out")
        for pair in self.interactions:
            if len(pair) != 2:
                raise ValueError(f"interactions has {pair}: give pairs of two columns, such as [price, attitude]")
        return self

    def identity(self) -> dict[str, Any]:
        """The settings that decide the fitted model; of those that came later only what is set, so that keys stay."""
        late: dict[str, Any] = {
            "interactions": [],
            "max_categories": 64,
            "resamples": 0,
            "fallback": None,
            "leave_out": [],
        }
        unset = {name for name, default in late.items() if getattr(self, name) == default}
        described = self.model_dump(mode="json", exclude=unset)
        return described | ({"leave_out": sorted(self.leave_out)} if self.leave_out else {})


class RivalsConfig(Section):
    """How prices are held against those of similar candidates in the same slate.

    The column `rival_gap` of priors is Σ_j w_j (log price − log price_j) / max(1, Σ_j w_j) over the other candidates,
    w_j = σ((cosine − near) / 0.02) of the frozen vectors of the two things: 0 where nothing similar is offered.
    """

    price: str = "price"
    """The feature that is compared, a number of scale `log`."""
    near: float = 0.36
    """Cosine of two texts from which on they count as substitutes: half at it, wholly 0.1 above it."""
    axes: PositiveInt | None = 32
    """Directions in which the vectors of all things vary most, all made equally long before the cosine, so that the
    many words of a kind count for more than the few of a brand; null takes the cosine of the vectors as they are."""


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
    rivals: RivalsConfig | None = None
    """Substitutes told by words: a column of priors that holds a price against those of similar candidates."""

    def prepared(self) -> dict[str, Any]:
        """The settings that decide the columns of a prepared folder: all but the width, and what is not set."""
        unset = {"rivals"} if self.rivals is None else set()
        return self.model_dump(mode="json", exclude={"width", *unset})
