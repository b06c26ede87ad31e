"""Options of commands, as fields of the dataclass that their function reads: each name, default and help once."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

KEY = "option"


@dataclass(frozen=True)
class Option:
    """What a help page shows of a field, beside its name, type and default.

    Attributes:
        help: one short sentence.
        flags: names on the command line, where they are not the field's own (`--exact/--faiss`).
        shown: the default in words, where the value says too little.
        lower_bound, upper_bound: of a number, both allowed.
        read: turns the text of the command line into the field's value.
    """

    help: str
    flags: tuple[str, ...] = ()
    shown: str | None = None
    lower_bound: float | None = None
    upper_bound: float | None = None
    read: Callable[[str | None], Any] | None = None


def option(default: Any, help: str, *flags: str, **shown: Any) -> Any:
    """A dataclass field that is also an option of a command.

    Args:
        default: of the field; `()` for options that may be repeated.
        help: for the help page.
        flags: as in `Option`.
        shown: further attributes of `Option`.
    """
    return field(default=default, metadata={KEY: Option(help, flags, **shown)})


def comma_separated(text: str | None) -> tuple[str, ...]:
    """The names in `a,b , c`."""
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())
