"""CAMPAIGN.yaml: what a campaign says in its prompts, what it is paid for, and how often it may show what."""

from datetime import date
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from equipoise.common.errors import UserError
from equipoise.common.yaml_file import read_yaml
from equipoise.configs.section import Section

Count = Annotated[int, Field(ge=0)]


class Boost(Section):
    """A number that is added to the utility of a group of candidates."""

    attribute: str
    """Column of the candidates: item_id, provider, category …."""
    group: str
    """Its value there."""
    add: Annotated[float, Field(ge=-5.0, le=5.0)]
    """Added to the utility, −5 to 5; 0.1 is a tenth more expected value."""


class CapRule(Section):
    """How many exposures a group may and must get over the whole campaign."""

    attribute: str
    """Column of the candidates."""
    group: str | None = None
    """Its value there; null applies the rule to each value by itself."""
    most: Count | None = None
    """Exposures of the group at most, over the whole campaign; null is no limit."""
    least: Count = 0
    """Exposures of the group at least."""

    @model_validator(mode="after")
    def _says_something(self) -> "CapRule":
        if self.most is None and not self.least:
            raise ValueError("give most, least or both")
        if self.most is not None and self.least > self.most:
            raise ValueError(f"least {self.least} is above most {self.most}")
        return self


class Campaign(Section):
    """A campaign."""

    name: str
    """Also the prompt field `campaign`."""
    starts: date | None = None
    """First day; also the prompt field `campaign_start`, and with `ends` `campaign_days`."""
    ends: date | None = None
    """Last day, included; also the prompt field `campaign_end`."""
    fields: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Further fields of every prompt (type, discount …), in place of the requests' own."""
    top: Annotated[int, Field(ge=1)] = 10
    """Candidates per shopper at most."""
    value: str | None = None
    """Column with the value of a candidate; null where all are worth the same."""
    value_weight: Annotated[float, Field(ge=0.0, le=5.0)] = 1.0
    """ω_value, 0 to 5; 1 makes exp(u) the expected value."""
    omega: dict[str, float] = Field(default_factory=dict)
    """ω of list-wise objectives; the others keep the export's."""
    boosts: list[Boost] = Field(default_factory=list)
    """Additions to the utility of groups."""
    caps: list[CapRule] = Field(default_factory=list)
    """Limits of groups over all shoppers."""

    @model_validator(mode="after")
    def _in_order(self) -> "Campaign":
        if self.starts and self.ends and self.ends < self.starts:
            raise ValueError(f"ends {self.ends} before it starts ({self.starts})")
        return self

    @property
    def attributes(self) -> list[str]:
        """The columns that boosts and caps read, each once."""
        named = [*(boost.attribute for boost in self.boosts), *(cap.attribute for cap in self.caps)]
        return list(dict.fromkeys(named))

    def dated(self) -> dict[str, Any]:
        """What name and dates give to prompts that read them."""
        found: dict[str, Any] = {"campaign": self.name}
        found |= {"campaign_start": str(self.starts)} if self.starts else {}
        found |= {"campaign_end": str(self.ends)} if self.ends else {}
        if self.starts and self.ends:
            found["campaign_days"] = (self.ends - self.starts).days + 1
        return found


def read_campaign(path: Path) -> Campaign:
    """Read CAMPAIGN.yaml.

    Raises:
        UserError: it is missing or no YAML, or names the key that is wrong.
    """
    content = read_yaml(path, "give a YAML file of a campaign", "give at least name and top")
    try:
        return Campaign(**content)
    except (ValidationError, TypeError) as error:
        if isinstance(error, TypeError):
            raise UserError(f"{path} has a key that is no text: name keys by texts") from error
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the campaign"
        raise UserError(f"{path}: {where}: {first['msg'].removeprefix('Value error, ')}") from error
