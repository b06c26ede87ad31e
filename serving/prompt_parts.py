"""A request cut into the parts of its prompts that can be left out: each history event, each piece of a template.

A part is left out as `prepare` leaves out what is missing: with its separator, and the label of a history with its
last title. Where a request brings fields, the parts are the pieces of the templates; a ready text is cut at the
separators. A feature goes with the piece that tells it in words; one without such a piece is a part of its own.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from equipoise.data.features import Scales
from equipoise.data.prompts import parse_piece, piece_fields, plain_text
from equipoise.serving.requests import Candidate, ReadRequest, RequestReader
from equipoise.serving.values import plain

PREFIX = ("shopper", "history")
LONGEST = 1_000_000
"""Characters of a value: its length has been checked already."""


@dataclass(frozen=True)
class Part:
    """One part of the prompts of a candidate.

    Attributes:
        where: `shopper`, `history`, `item`, `context`, `number` or `category`.
        text: as the model reads it; of a feature its name and value.
        fields: that it was rendered from; empty for history and for parts of ready texts.
    """

    where: str
    text: str
    fields: tuple[str, ...] = ()


@dataclass(frozen=True)
class CutRequest:
    """A read request and its parts.

    Attributes:
        read: the whole.
        shopper: parts of the prefix, history last.
        items, contexts, numbers: parts of each candidate's two texts, and the features that no piece tells.
        features: names of all features.
        separator, label: between pieces, and before the history.
    """

    read: ReadRequest
    shopper: list[Part]
    items: list[list[Part]]
    contexts: list[list[Part]]
    numbers: list[list[Part]]
    features: tuple[str, ...]
    separator: str
    label: str

    def parts(self, place: int) -> list[Part]:
        """All parts that the candidate at a place is read with."""
        return [*self.shopper, *self.items[place], *self.contexts[place], *self.numbers[place]]

    def without(self, place: int, left_out: Collection[int]) -> ReadRequest:
        """The request where these parts of `parts(place)` are missing, those of the item in its own prompt alone."""
        shopper, item = len(self.shopper), len(self.items[place])
        kept = [part for number, part in enumerate(self.parts(place)) if number not in left_out]
        read = self.read
        if any(number < shopper for number in left_out):
            read = replace(read, prefix=self._prefix([part for part in kept if part.where in PREFIX]))
        if any(number >= shopper for number in left_out):
            candidate = read.candidates[place]
            if any(shopper <= number < shopper + item for number in left_out):
                candidate = replace(candidate, text=self._join(kept, "item"))
            if any(number >= shopper + item for number in left_out):
                candidate = replace(candidate, context=self._join(kept, "context"))
            read = _with(read, place, candidate)
        gone = {field for number in left_out for field in self.parts(place)[number].fields}
        if gone & set(self.features):
            candidate = read.candidates[place]
            read = _with(read, place, replace(candidate, features=self._known(candidate, gone)))
        return read

    def _known(self, candidate: Candidate, gone: Collection[str]) -> tuple[float, ...]:
        told = zip(self.features, candidate.features, strict=True)
        return tuple(math.nan if name in gone else value for name, value in told)

    def _join(self, parts: list[Part], where: str) -> str:
        return self.separator.join(part.text for part in parts if part.where == where)

    def _prefix(self, parts: list[Part]) -> str:
        text, told = self._join(parts, "shopper"), ", ".join(part.text for part in parts if part.where == "history")
        if not told:
            return text
        return f"{text}{self.separator}{self.label}{told}" if text else f"{self.label}{told}"


def _with(read: ReadRequest, place: int, candidate: Candidate) -> ReadRequest:
    """The request with another candidate at a place."""
    return replace(read, candidates=[*read.candidates[:place], candidate, *read.candidates[place + 1 :]])


def cut(reader: RequestReader, request: Mapping[str, Any], read: ReadRequest) -> CutRequest:
    """Cut a request.

    Args:
        reader: of the export.
        request: as JSON.
        read: what the reader made of it.
    """
    prompt, label = reader.prompt, reader.history.label
    if request.get("prefix") is None:
        shopper = _pieces("shopper", prompt.prefix, request.get("user") or {})
        shopper += [Part("history", title) for title in map(plain_text, reader.titles(request.get("history"))) if title]
    else:
        shopper = _ready_prefix(read.prefix, prompt.separator, label)
    items, contexts, numbers = [], [], []
    for given, candidate in zip(request["candidates"], read.candidates, strict=True):
        entry = given if isinstance(given, Mapping) else {}
        items.append(_item(prompt.item, entry, candidate, prompt.separator))
        context = entry.get("context")
        if isinstance(context, str):
            contexts.append(_ready("context", candidate.context, prompt.separator))
        else:
            contexts.append(_pieces("context", prompt.context, context or {}))
        numbers.append(_numbers(reader.scales, candidate, [*shopper, *items[-1], *contexts[-1]]))
    return CutRequest(read, shopper, items, contexts, numbers, reader.features, prompt.separator, label)


def _item(pieces: list[str], entry: Mapping[str, Any], candidate: Candidate, separator: str) -> list[Part]:
    if entry.get("item") is not None:
        return _pieces("item", pieces, entry["item"])
    return _ready("item", candidate.text, separator)


def _pieces(where: str, pieces: list[str], fields: Mapping[str, Any]) -> list[Part]:
    told = {name: plain(name, fields[name], LONGEST) for name in piece_fields(pieces) if name in fields}
    rendered = [(parse_piece(text).render(told), tuple(piece_fields([text]))) for text in pieces]
    return [Part(where, text, names) for text, names in rendered if text]


def _numbers(scales: Scales, candidate: Candidate, parts: list[Part]) -> list[Part]:
    """The known features that none of a candidate's other parts was rendered from."""
    told = {field for part in parts for field in part.fields}
    known = [(name, scales[name].tell(value)) for name, value in zip(scales, candidate.features, strict=True)]
    known = [(name, value) for name, value in known if value is not None and name not in told]
    return [
        Part("category" if scales[name].scale == "category" else "number", f"{name} {plain_text(value)}", (name,))
        for name, value in known
    ]


def _ready(where: str, text: str, separator: str) -> list[Part]:
    return [Part(where, part) for part in text.split(separator) if part]


def _ready_prefix(text: str, separator: str, label: str) -> list[Part]:
    """A ready prefix: what follows the history's label, at the start of a piece, are titles."""
    place = -1
    if label:
        place = 0 if text.startswith(label) else text.find(separator + label)
    if place < 0:
        return _ready("shopper", text, separator)
    before, told = text[:place], text[place:].removeprefix(separator).removeprefix(label)
    return [*_ready("shopper", before, separator), *_ready("history", told, ", ")]
