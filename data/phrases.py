"""What the pieces of the templates say by themselves, such as "bought 50 times or more", and values must not.

A phrase is the literal text of a piece around what its filters say, or the label of a history. It is found whatever
tokenizers drop: case, accents, signs without width.
"""

import re
import unicodedata
from collections.abc import Iterable

from equipoise.data.prompts import FILTER_WORDS, Piece, Placeholder, parse_piece

DEEPEST = 4
"""Times that phrases are taken out of a value, which bounds the work on hostile ones."""
_NUMBER = r"-?\d+(?:\.\d+)?"
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
        self._pattern = re.compile(rf"\s*{before}(?<!\w)(?:{pattern})(?!\w)", re.IGNORECASE)

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
    phrases = {_phrase(parse_piece(piece)) for piece in pieces}
    phrases |= {_words(label) for label in labels if len(label.split()) > 1 and _LETTER.search(label)}
    return "|".join(sorted(phrases - {""}, key=lambda phrase: (-len(phrase), phrase)))


def _phrase(piece: Piece) -> str:
    literals = "".join([piece.head, *(placeholder.tail for placeholder in piece.placeholders)])
    if not _LETTER.search(literals) or not any(placeholder.filter for placeholder in piece.placeholders):
        return ""
    parts = [_words(piece.head)]
    for placeholder in piece.placeholders:
        parts += [_said(placeholder), _words(placeholder.tail)]
    return r"\s*".join(part for part in parts if part)


def _said(placeholder: Placeholder) -> str:
    if placeholder.filter is None:
        return r"\S{1,64}"  # bounded, as values may be long
    words = FILTER_WORDS[placeholder.filter]
    if words is None:
        return _NUMBER
    return f"(?:{'|'.join(map(_words, sorted(words, key=len, reverse=True)))})"


def _words(text: str) -> str:
    return r"\s+".join(re.escape(word) for word in _folded(text)[0].split())


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
