"""What keeps a field's value from telling other fields: neither signs between pieces nor what they count is in values.

A seller who writes ", bought 50 times or more" into a title would else add a piece to the prompt. In values the signs
of all separators become another sign ("tea, green" is told as "tea; green"), so that each separator's tokens stand
between pieces alone; and phrases that a piece of the templates could say (`data/phrases.py`) are left out, for a model
that learned what they mean reads them anywhere. White space needs no care: a value has single spaces and no line
breaks.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from equipoise.configs.schema import HistoryConfig, PromptConfig
from equipoise.data.phrases import Phrases, phrases_of
from equipoise.data.prompts import plain_text

CANDIDATE_SEPARATOR = ", "
"""Between an item's text and the context of an impression."""
OTHER_SIGNS = (";", "/", "|", "-", "*")
"""The first that is in no separator takes the place of all in values."""
_GAP = r"[\s\u00ad\u200b-\u200f\u2060\ufeff]*"
"""What tokenizers drop between the signs of a separator."""

Tell = Callable[[Any], str]
"""From a value to its text in a prompt."""


class Separators:
    """Replaces the signs of separators in values.

    Args:
        separators: of pieces and histories.
        phrases: regular expression of what values do not say besides.
    """

    def __init__(self, separators: Sequence[str], phrases: str = "") -> None:
        signs = sorted({"".join(each.split()) for each in separators} - {""}, key=lambda sign: (-len(sign), sign))
        self.signs = tuple(signs)
        self.other = next(sign for sign in (*OTHER_SIGNS, " ") if not any(sign in each for each in signs))
        self._pattern = re.compile("|".join(map(_pattern, signs))) if signs else None
        self._phrases = Phrases(phrases, self.other) if phrases else None

    def tell(self, value: Any) -> str:
        """The text of a value without the sign of any separator, nor any phrase."""
        text = plain_text(value)
        if self._pattern is not None:
            if not text.isascii():
                text = "".join(map(self._unfolded, text))
            text = " ".join(self._pattern.sub(self.other, text).split())
        return text if self._phrases is None else self._phrases.without(text)

    def _unfolded(self, character: str) -> str:
        """A character that tokenizers may fold to a sign, such as a wide comma, as that sign; any other as it is."""
        if character.isascii():
            return character
        folded = unicodedata.normalize("NFKC", character)
        return folded if any(sign in folded for each in self.signs for sign in each) else character


def _pattern(sign: str) -> str:
    pattern = _GAP.join(map(re.escape, sign))
    first, last = (r"(?<!\w)" if sign[0].isalnum() else ""), (r"(?!\w)" if sign[-1].isalnum() else "")
    return f"{first}{pattern}{last}"


@lru_cache(maxsize=64)
def _separators(separators: tuple[str, ...], phrases: str) -> Separators:
    return Separators(separators, phrases)


def teller_of(prompt: PromptConfig, history: Sequence[HistoryConfig]) -> Tell:
    """How values are told by the templates of a run; runs from before values were escaped tell them as they are."""
    if not prompt.escape:
        return plain_text
    separators = {CANDIDATE_SEPARATOR, prompt.separator, *(section.separator for section in history)}
    pieces = (*prompt.prefix, *prompt.item, *prompt.context)
    return _separators(tuple(sorted(separators)), phrases_of(pieces, [section.label for section in history])).tell


def one_line(text: str, prompt: PromptConfig, history: Sequence[HistoryConfig]) -> str:
    """A ready text without line breaks, which end the prompts of decoders; as it is where templates use them."""
    if any("\n" in each for each in (prompt.separator, *(section.separator for section in history))):
        return text
    return " ".join(part for part in text.splitlines() if part) if len(text.splitlines()) > 1 else text.rstrip("\r\n")
