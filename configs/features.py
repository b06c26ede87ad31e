"""Numeric features in a run configuration: columns of numbers that the heads read beside the texts."""

from typing import Any, Literal

from pydantic import model_validator

from configs.section import Section

ScaleName = Literal["log", "log1p"]
"""`log`: numbers above 0, such as prices. `log1p`: numbers of 0 or more, such as counts."""


class FeatureConfig(Section):
    """One feature; a plain name stands for `{name: NAME}`.

    `scale`: log (value above 0) or log1p (log(1 + value), value 0 or more). `told: false` keeps its values from the
    heads, as where they are unknown.
    """

    name: str
    scale: ScaleName = "log"
    told: bool = True

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    def __str__(self) -> str:
        return self.name if self.scale == "log" else f"{self.name} ({self.scale})"
