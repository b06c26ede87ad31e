"""Rates in a run configuration: how often a label happened before each request, by columns of its impressions."""

import re
from typing import Annotated, Any

from pydantic import Field, PositiveFloat, field_validator, model_validator

from equipoise.configs.features import FeatureConfig
from equipoise.configs.section import Section


class RateConfig(Section):
    """One rate and its count, features of the names `rate` and `shown`: of what happened strictly before each request.

    With n earlier impressions of the same values of `by`, k of them with the label, the rate is (k + strength · q) /
    (n + strength), where q is the rate of `parent`, or that of all impressions so far.
    """

    of: str
    """Label, a column of impressions of 0 and 1: click, conversion, or that of an objective."""
    by: Annotated[list[str], Field(min_length=1)]
    """Columns of impressions, items or users, one or a list, whose values impressions must share to be counted."""
    given: str | None = None
    """Label that must be 1 for an impression to be counted, such as click; null counts all."""
    parent: list[str] = Field(default_factory=list)
    """Some of the columns of `by`, whose rate is where a new key starts; empty starts from the rate of everything."""
    strength: PositiveFloat = 20.0
    """Impressions that the start is worth: at so many of its own, a key's rate is halfway to what they say."""
    half_life_days: PositiveFloat | None = None
    """Days after which an impression counts half; null counts all alike."""
    delay_days: Annotated[float, Field(ge=0.0)] | str = 0.0
    """Days after which a label is known, or the column of impressions that holds them; until then it does not count."""
    heads: bool = True
    """false keeps both features from the heads, as of `data.features`: priors alone read them."""

    @field_validator("by", "parent", mode="before", json_schema_input_type=str | list[str])
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _columns(self) -> "RateConfig":
        if len(set(self.by)) < len(self.by):
            raise ValueError(f"by names a column twice in {self.by}: drop one")
        if self.parent and not set(self.parent) < set(self.by):
            raise ValueError(f"parent {self.parent} must be some of the columns of by, {self.by}, but not all")
        if self.given == self.of:
            raise ValueError(f"given is the label {self.of} itself, whose rate is then 1: drop it")
        return self

    @property
    def _key(self) -> str:
        days = "" if self.half_life_days is None else f"_{self.half_life_days:g}d"
        delay = self.delay_column or f"{self.delay_days:g}d"
        return f"by_{'_'.join(self.by)}{days}{f'_after_{delay}' if self.delay_days else ''}"

    @property
    def _given(self) -> str:
        return f"_given_{self.given}" if self.given else ""

    @property
    def rate(self) -> str:
        """Name of the feature with the smoothed rate, a fraction above 0 and below 1."""
        return f"rate_{self.of}{self._given}_{self._key}"

    @property
    def shown(self) -> str:
        """Name of the feature with the number of impressions that were counted, decayed by the half-life."""
        return f"shown{self._given}_{self._key}"

    @property
    def names(self) -> tuple[str, str]:
        """Names of both features."""
        return self.rate, self.shown

    @property
    def delay_column(self) -> str | None:
        """The column that holds each impression's delay, None where it is the same for all."""
        return self.delay_days if isinstance(self.delay_days, str) else None

    @property
    def labels(self) -> list[str]:
        """The columns that it counts."""
        return [self.of, *([self.given] if self.given else [])]

    @property
    def file(self) -> str:
        """Name of the file of its state."""
        return re.sub(r"[^\w.-]", "_", self.rate) + ".parquet"

    @property
    def features(self) -> list[FeatureConfig]:
        """The two features, as they are added to `data.features`."""
        return [
            FeatureConfig(name=self.rate, scale="logit", heads=self.heads),
            FeatureConfig(name=self.shown, scale="log1p", heads=self.heads),
        ]


def with_rate_features(features: list[FeatureConfig], rates: list[RateConfig]) -> list[FeatureConfig]:
    """The features, and those of rates that they do not name; a count that several rates share is read if one says so.

    Raises:
        ValueError: two rates have one name.
    """
    names = [rate.rate for rate in rates]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"rates has '{twice[0]}' twice: drop one")
    added = {feature.name: feature for rate in sorted(rates, key=lambda rate: rate.heads) for feature in rate.features}
    known = {feature.name for feature in features}
    return [*features, *(feature for name, feature in added.items() if name not in known)]
