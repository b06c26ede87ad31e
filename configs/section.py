"""The base of all sections of a configuration, and the kinds of numbers that they share."""

import math
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


MOST_WHOLE = 2**31 - 1
"""No setting counts further, sizes in tokens, rows and steps included."""
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)


class Section(BaseModel):
    """Unknown keys are errors, values are checked on assignment too.

    Texts are not empty, numbers are finite and no whole number is beyond any use; paths are those of this machine.
    """

    MAY_BE_EMPTY: ClassVar[tuple[str, ...]] = ()
    """Settings whose text may be empty."""

    model_config = ConfigDict(
        extra="forbid", validate_assignment=True, validate_default=True, use_attribute_docstrings=True
    )

    @model_validator(mode="after")
    def _plain_values(self) -> "Section":
        for name in type(self).model_fields:
            _check(name, getattr(self, name), name in self.MAY_BE_EMPTY)
        return self


def _check(name: str, value: Any, may_be_empty: bool) -> None:
    """Refuse a value that no setting has; lists and mappings value by value."""
    if isinstance(value, str) and not value.strip() and not may_be_empty:
        raise ValueError(f"{name} is an empty text: give one, or leave it out")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} is {value}: give a finite number")
    if isinstance(value, int) and not -MOST_WHOLE <= value <= MOST_WHOLE:
        raise ValueError(f"{name} is {value}: give a whole number of at most {MOST_WHOLE:,}")
    if isinstance(value, Path) and _ELSEWHERE.match(str(value)):
        raise ValueError(f"{name} '{value}' is no path of this machine: copy the file here, or mount its folder")
    if isinstance(value, dict):
        for key, each in value.items():
            _check(f"{name}.{key}", each, may_be_empty)
    elif isinstance(value, list | tuple):
        for each in value:
            _check(name, each, may_be_empty)
