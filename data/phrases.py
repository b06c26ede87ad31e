"""What the pieces of the templates say by themselves, such as "bought 50 times or more", and values must not.

A phrase is the literal text of a piece around what its filters say, or nearly say ("bought 50+ times"), or the label of
a history. It is found whatever tokenizers drop: case, accents, signs without width; and whatever signs are between its
words.
"""

import re
import unicodedata
from collections.abc import Iterable

from equipoise.data.prompts import FILTER_WORDS, Piece, Placeholder, parse_piece

DEEPEST = 4
"""Times that phrases are taken out of a value, which bounds the work on hostile ones."""
_NUMBER = r"-?\d+(?:\.\d+)?"
_GAP = r"[\W_]{1,3}"
"""Between words of a phrase, as a model reads "bought-50-times" too."""
_UNIMPORTANT = {"a", "half", "in", "last", "more", "most", "or", "over", "some", "this", "to"}
"""Words of filters that by themselves say nothing."""
_LETTER = re.compile(r"[^\W\d_]")


class Phrases:
    """Takes phrases out of values.

    Args:
        pattern: regular expression of all phrases, in folded characters.
        sign: what stands between parts of a value; one before a phrase goes with it.
    """

    def __init__(self, pattern: str, sign: str) -> None:
        self._sign = sign.strip()
        before = rf"(?:{re.escape(self._sign)}\s*)?" if self._sign else ""
        self._pattern = re.compile(rf"\s*{before}(?<![^\W_])(?:{pattern})(?![^\W_])", re.IGNORECASE)

    def without(self, text: str) -> str:
        """The text without phrases, nor those that taking some out makes; cut where they are nested too deep."""
        for _ in range(DEEPEST):
            found = self._find(text)
            if not found:
                return text
            ends, starts = [0, *(end for _, end in found)], [*(start for start, _ in found), len(text)]
            text = " ".join(" ".join(text[end:start] for end, start in zip(ends, starts, strict=True)).split())
            text = (text.replace(f" {self._sign}", self._sign) if self._sign else text).strip(f" {self._sign}")
        found = self._find(text)
        return text[: found[0][0]].strip(f" {self._sign}") if found else text

    def _find(self, text: str) -> list[tuple[int, int]]:
        """Start and end of each phrase, with the sign before it."""
        if text.isascii():
            return [match.span() for match in self._pattern.finditer(text)]
        folded, places = _folded(text)
        matches = self._pattern.finditer(folded)
        return [(places[match.start()], places[match.end() - 1] + 1) for match in matches]


def phrases_of(pieces: Iterable[str], labels: Iterable[str]) -> str:
    """The regular expression of all phrases; "" where there are none.

    Args:
        pieces: of the templates; those without words, or without a filter, say nothing that can be told from values.
        labels: of histories; a single word is no phrase.
    """
    parsed = [parse_piece(piece) for piece in pieces]
    phrases = {_phrase(piece) for piece in parsed}
    phrases |= {each for name in {p.filter for piece in parsed for p in piece.placeholders} for each in _alone(name)}
    phrases |= {_words(label) for label in labels if len(label.split()) > 1 and _LETTER.search(label)}
    return "|".join(sorted(phrases - {""}, key=lambda phrase: (-len(phrase), phrase)))


def _phrase(piece: Piece) -> str:
    literals = "".join([piece.head, *(placeholder.tail for placeholder in piece.placeholders)])
    if not _LETTER.search(literals) or not any(placeholder.filter for placeholder in piece.placeholders):
        return ""
    head = _words(piece.head)
    parts = [rf"(?:{head}{_GAP}){{0,8}}{head}" if head else ""]  # "bought bought never never" leaves no "bought"
    for placeholder in piece.placeholders:
        parts += [_said(placeholder), _words(placeholder.tail)]
    return r"[\W_]{0,3}".join(part for part in parts if part)


def _said(placeholder: Placeholder) -> str:
    if placeholder.filter is None:
        return r"\S{1,64}"  # bounded, as values may be long
    words = FILTER_WORDS[placeholder.filter]
    if words is None:
        return _NUMBER
    exact = map(_words, sorted(words, key=len, reverse=True))
    return f"(?:{_nearly(words)}|{'|'.join(exact)})"


def _alone(name: str | None) -> list[str]:
    """What a filter says that is told from other texts without the words of its piece, such as "50 times or more"."""
    phrases = [phrase.split() for phrase in FILTER_WORDS.get(name or "") or ()]
    return [_words(" ".join(words)) for words in phrases if len(words) > 2 and set(words) & _telling(phrases)]


def _telling(phrases: Iterable[list[str]]) -> set[str]:
    return {word for words in phrases for word in words if _LETTER.search(word)} - _UNIMPORTANT


def _nearly(phrases: tuple[str, ...]) -> str:
    """What has the words of a filter in another order or number, one of them at least that means something."""
    split = [phrase.split() for phrase in phrases]
    words = {word for each in split for word in each if _LETTER.search(word)} | {"more", "or", "over"}
    telling = "|".join(sorted(_telling(split), key=lambda word: (-len(word), word)))
    any_word = rf"\d{{1,9}}\+?|{'|'.join(sorted(words, key=lambda word: (-len(word), word)))}"
    return rf"(?:(?:{any_word}){_GAP}){{0,8}}(?:{telling})(?:{_GAP}(?:{any_word})(?![^\W_])){{0,8}}"


def _words(text: str) -> str:
    return _GAP.join(re.escape(word) for word in _folded(text)[0].split())


def _folded(text: str) -> tuple[str, list[int]]:
    """A text as tokenizers may read it, and the place in the text that each character comes from."""
    letters: list[str] = []
    places: list[int] = []
    for place, character in enumerate(text):
        for part in unicodedata.normalize("NFKD", character).casefold():
            if unicodedata.category(part) not in ("Mn", "Cf", "Cc"):
                letters.append(part)
                places.append(place)
    return "".join(letters), places
