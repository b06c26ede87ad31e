"""Features in a run configuration: columns of numbers or of categories that the heads read beside the texts."""

from typing import Annotated, Any, Literal

from pydantic import Field, GetJsonSchemaHandler, PositiveFloat, model_validator

from equipoise.configs.section import Section

ScaleName = Literal["log", "log1p", "logit", "none", "category"]
"""`log`: numbers above 0, such as prices. `log1p`: numbers of 0 or more, such as counts. `logit`: numbers between 0 and
1, such as rates. `none`: any number, such as log-odds. `category`: words, such as segments of shoppers."""


MOST_LEVELS = 2**24
"""Levels that are looked up by number: float32 holds every whole number up to this."""
MOST_CATEGORIES = 4096
"""Every text is a column of each candidate: more would crowd out the tokens."""


class FeatureConfig(Section):
    """One feature; a plain name stands for `{name: NAME}`.

    `scale`: log (value above 0), log1p (log(1 + value), value 0 or more), logit (log(value / (1 -
    value)), value above 0 and below 1), none (any number) or category (a text, a
    whole number, true or false). `included: false` masks its values, as where they are unknown. `heads: false` keeps
    them for priors alone. Of a category, `interactions: false` lets each text have its own level but no slopes for the
    numbers, as suits an item's own id, and `max_categories` is how many texts have a column; rarer ones count as
    unknown. With `levels` or `hashed` there are as many levels as that says, each looked up by its number instead of a
    column, so that there may be millions.
    """

    name: str
    """Column of impressions, else of items, else of users."""
    scale: ScaleName = "log"
    """`log` of numbers above 0, `log1p` of numbers of 0 or more, `logit` of those inside (0, 1), `none` (any number as
    it is), or `category` (texts, whole numbers, booleans)."""
    included: bool = True
    """false masks its values: the heads read them as unknown, as of new shoppers."""
    heads: bool = True
    """false keeps it from the heads: the prepared folder, exports and requests hold it, and priors alone read it."""
    interactions: bool = True
    """Of a category: false leaves each value its bias alone, without interactions with the numbers, as suits an item's
    own id."""
    max_categories: Annotated[int, Field(ge=2, le=MOST_CATEGORIES)] = 64
    """Of a category: how many values, the most frequent, have a column; rarer ones count as unknown."""
    levels: Annotated[int, Field(ge=2, le=MOST_LEVELS)] | None = None
    """Of a category with `interactions: false`: how many values, the most frequent, have a level, looked up by number;
    null gives each of `max_categories` a column."""
    hashed: Annotated[int, Field(ge=2, le=MOST_LEVELS)] | None = None
    """Of a category with `interactions: false`: levels that values share by a hash, so that new ones have one too; null
    hashes nothing."""
    rate: PositiveFloat = 10.0
    """Learning-rate multiplier of `levels` or `hashed` ones: each is seen in few rows."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, handler(core_schema)]}

    @property
    def _of_category(self) -> dict[str, Any]:
        """What is set of a category; a saved config spells every default, so these do not count."""
        names = ("interactions", "max_categories", "levels", "hashed", "rate")
        plain = {name: FeatureConfig.model_fields[name].default for name in names}
        return {name: value for name in plain if (value := getattr(self, name)) != plain[name]}

    @model_validator(mode="after")
    def _check_category(self) -> "FeatureConfig":
        if self.scale != "category" and self._of_category:
            raise ValueError(
                f"{next(iter(self._of_category))} is of categories, not of numbers like {self.name}: add `scale: "
                "category` or drop it"
            )
        if self.levels and self.hashed:
            raise ValueError(f"levels and hashed of {self.name} exclude each other: drop one")
        if (self.levels or self.hashed) and self.interactions:
            raise ValueError(
                f"levels and hashed have no interactions with numbers: give {self.name} interactions: false"
            )
        return self

    def __str__(self) -> str:
        about: list[str] = [] if self.scale == "log" else [self.scale]
        about += [] if self.heads else ["heads: false"]
        about += [f"{name}: {str(value).lower()}" for name, value in self._of_category.items()]
        return f"{self.name} ({', '.join(about)})" if about else self.name
