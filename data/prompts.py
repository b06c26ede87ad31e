"""Renders prompt pieces: the only place where rows become text, in `prepare` and in serving alike.

A piece is a string such as "bought {times_bought|count}". It vanishes where one of its fields is missing, so a text
never says "None". Filters turn numbers into coarse words, which a language model reads better than digits.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any

import pyarrow as pa

from equipoise.common.errors import UserError
from equipoise.data.values import MISSING, plain_value

CONTEXT_CACHE = 200_000
"""Distinct contexts whose text is remembered."""

_FIELD = re.compile(r"\{([^{}]*)\}")

# Upper bounds (inclusive) and words, fine where most counts are and coarse above.
_COUNT_WORDS = (
    (0, "never"), (1, "once"), (2, "twice"), (3, "3 times"), (4, "4 times"), (6, "5 to 6 times"), (9, "7 to 9 times"),
    (14, "10 to 14 times"), (24, "15 to 24 times"), (49, "25 to 49 times"),
)  # fmt: skip
_DAYS_WORDS = (
    (0, "today"), (1, "yesterday"), (6, "this week"), (13, "last week"), (20, "2 weeks ago"), (29, "3 weeks ago"),
    (59, "a month ago"), (89, "2 months ago"), (179, "some months ago"), (364, "half a year ago"),
)  # fmt: skip
# Upper bounds (exclusive): the geometric middles between two odds.
_SHARE_ODDS = (
    (0.0014, 1000), (0.0032, 500), (0.0071, 200), (0.0141, 100), (0.0258, 50), (0.0408, 30), (0.0707, 20),
    (0.1414, 10), (0.2582, 5), (0.4, 3),
)  # fmt: skip


def count_words(value: float) -> str:
    """A count as words: 0 is "never", 1 "once", 5 "5 to 6 times", from 50 on "50 times or more"."""
    return next((words for bound, words in _COUNT_WORDS if value <= bound), "50 times or more")


def days_words(value: float) -> str:
    """A number of days in the past as words: below 1 is "today", 8 "last week", from 365 on "over a year ago"."""
    days = math.floor(value)
    return next((words for bound, words in _DAYS_WORDS if days <= bound), "over a year ago")


def money_words(value: float) -> str:
    """An amount as text, without a currency: two decimals below 10, one figure fewer above ("3.49", "24", "1200")."""
    if abs(value) < 10:
        return f"{value:.2f}".removesuffix(".00")
    if abs(value) < 1000:
        return f"{value:.0f}"
    return f"{round(value, -2):.0f}"


def share_words(value: float) -> str:
    """A fraction as odds on a logarithmic scale: 0.01 is "1 in 100", 0 "none", from 0.4 "half", from 0.7 "most"."""
    if value <= 0:
        return "none"
    return next((f"1 in {odds}" for bound, odds in _SHARE_ODDS if value < bound), "most" if value >= 0.7 else "half")


FILTERS: dict[str, Callable[[float], str]] = {
    "count": count_words,
    "days": days_words,
    "money": money_words,
    "share": share_words,
}

FILTER_WORDS: dict[str, tuple[str, ...] | None] = {
    "count": (*(words for _, words in _COUNT_WORDS), "50 times or more"),
    "days": (*(words for _, words in _DAYS_WORDS), "over a year ago"),
    "money": None,
    "share": ("none", *(f"1 in {odds}" for _, odds in _SHARE_ODDS), "half", "most"),
}
"""All that a filter says; None for numbers."""


def plain_text(value: Any) -> str:
    """A value as text: whole numbers without a trailing .0, other numbers with four figures, text stripped."""
    value = plain_value(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else f"{value:.4g}"
    return " ".join(str(value).split())


def is_missing(value: Any) -> bool:
    """Whether a value vanishes with its piece: None, NaN (also as text), infinity, a blank string, an empty list."""
    if value is None:
        return True
    if isinstance(value, str):
        return value.strip() in MISSING
    if isinstance(value, (float, Decimal)):
        return not math.isfinite(value)
    return isinstance(value, (list, tuple)) and not value


@dataclass(frozen=True)
class Placeholder:
    """One `{name|filter}` of a piece and the literal text that follows it."""

    name: str
    filter: str | None
    tail: str


@dataclass(frozen=True)
class Piece:
    """A parsed piece: the literal text before its first placeholder, and its placeholders."""

    text: str
    head: str
    placeholders: tuple[Placeholder, ...]

    def render(self, fields: Mapping[str, Any], tell: Callable[[Any], str] | None = None) -> str | None:
        """The piece as text, or None where it vanishes. Raises UserError where a filter meets no number.

        Args:
            fields: the values.
            tell: from a value to its text; None: `plain_text`.
        """
        tell = tell or plain_text
        parts = [self.head]
        for placeholder in self.placeholders:
            value = fields.get(placeholder.name)
            if is_missing(value):
                return None
            words = tell(value) if placeholder.filter is None else self._filtered(placeholder, value)
            if words is None:
                return None
            parts.append(words)
            parts.append(placeholder.tail)
        return "".join(parts)

    def _filtered(self, placeholder: Placeholder, value: Any) -> str | None:
        assert placeholder.filter is not None
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"prompt piece '{self.text}' got {placeholder.name} = '{value}', which is not a number: "
                f"drop the filter |{placeholder.filter} or correct the column"
            ) from error
        return FILTERS[placeholder.filter](number) if math.isfinite(number) else None


@lru_cache(maxsize=1024)
def parse_piece(text: str) -> Piece:
    """Parse one piece; raises UserError naming the piece for an unknown filter or unbalanced braces."""
    literals = _FIELD.split(text)[::2]
    if any("{" in literal or "}" in literal for literal in literals):
        raise UserError(f"prompt piece '{text}' has a brace without its partner: write fields as {{name}}")
    placeholders = []
    for inner, tail in zip(_FIELD.findall(text), literals[1:], strict=True):
        name, bar, filter_name = (part.strip() for part in inner.partition("|"))
        if not name:
            raise UserError(f"prompt piece '{text}' has no field name in '{{{inner}}}': write it as {{name}}")
        if bar and filter_name not in FILTERS:
            known = ", ".join(FILTERS)
            raise UserError(f"prompt piece '{text}' uses the unknown filter '{filter_name}': use one of {known}")
        placeholders.append(Placeholder(name, filter_name if bar else None, tail))
    return Piece(text, literals[0], tuple(placeholders))


def piece_fields(pieces: Iterable[str]) -> list[str]:
    """The field names that the pieces read, each once, in the order of their first use."""
    return list(dict.fromkeys(placeholder.name for text in pieces for placeholder in parse_piece(text).placeholders))


def render_pieces(
    pieces: Iterable[str],
    fields: Mapping[str, Any],
    separator: str = ", ",
    tell: Callable[[Any], str] | None = None,
) -> str:
    """Render the pieces that have all their fields and join them; "" where none has. `tell`: as of `Piece.render`."""
    rendered = (parse_piece(text).render(fields, tell) for text in pieces)
    return separator.join(text for text in rendered if text)


def history_text(
    titles: Iterable[str], label: str, separator: str = ", ", tell: Callable[[Any], str] | None = None
) -> str:
    """A label and the titles of a history, which vanish together. `tell`: as of `Piece.render`."""
    text = separator.join(title for title in map(tell or plain_text, titles) if title)
    return f"{label}{text}" if text else ""


def prefix_text(
    pieces: Iterable[str],
    fields: Mapping[str, Any],
    histories: Iterable[str],
    separator: str,
    tell: Callable[[Any], str] | None = None,
) -> str:
    """The prefix of a request: its pieces, then the sections of its history as `history_text` gives them."""
    return separator.join(text for text in (render_pieces(pieces, fields, separator, tell), *histories) if text)


class ContextRenderer:
    """Renders the context pieces of impressions; equal field values are rendered once."""

    def __init__(self, pieces: list[str], separator: str, tell: Callable[[Any], str] | None = None) -> None:
        self.pieces, self.separator, self.tell = pieces, separator, tell
        self.names = piece_fields(pieces)
        self.seen: dict[tuple, str] = {}

    def render(self, table: pa.Table) -> list[str]:
        """One text per row of a table that has the pieces' fields as columns."""
        return self.texts([table.column(name).to_pylist() for name in self.names], table.num_rows)

    def texts(self, columns: Sequence[Sequence[Any]], count: int) -> list[str]:
        """One text for each of `count` impressions, given the values of every field of `names`, in that order."""
        if not self.names:
            return [render_pieces(self.pieces, {}, self.separator, self.tell)] * count
        return [self._one(values) for values in zip(*columns, strict=True)]

    def _one(self, values: tuple) -> str:
        values = tuple(map(plain_value, values))  # a list, say, is no key
        text = self.seen.get(values)
        if text is None:
            if len(self.seen) >= CONTEXT_CACHE:
                self.seen.clear()
            fields = dict(zip(self.names, values, strict=True))
            text = self.seen[values] = render_pieces(self.pieces, fields, self.separator, self.tell)
        return text
