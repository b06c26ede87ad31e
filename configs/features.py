"""Features in a run configuration: columns of numbers or of categories that the heads read beside the texts."""

from typing import Any, Literal

from pydantic import model_validator

from configs.section import Section

ScaleName = Literal["log", "log1p", "category"]
"""`log`: numbers above 0, such as prices. `log1p`: numbers of 0 or more, such as counts. `category`: words, such as
segments of shoppers or kinds of items."""


class FeatureConfig(Section):
    """One feature; a plain name stands for `{name: NAME}`.

    `scale`: log (value above 0), log1p (log(1 + value), value 0 or more) or category (a text, a whole number, true or
    false). `told: false` keeps its values from the heads, as where they are unknown.
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
