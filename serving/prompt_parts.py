"""A request cut into the parts of its prompts that can be left out: each history event, each piece of a template.

A part is left out as `prepare` leaves out what is missing: with its separator, and the label of a history with its
last title. Where a request brings fields, the parts are the pieces of the templates; a pre-rendered text is cut at the
separators. A feature goes with the piece that renders it in words; one without such a piece is a part of its own.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from equipoise.configs.schema import HistoryConfig
from equipoise.data.features import Scales
from equipoise.data.prompts import history_text, parse_piece, piece_fields, plain_text
from equipoise.data.separators import Tell
from equipoise.serving.requests import ReadCandidate, ReadRequest, RequestReader
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
        fields: that it was rendered from; empty for history and for parts of pre-rendered texts.
        section: of the history, its number.
    """

    where: str
    text: str
    fields: tuple[str, ...] = ()
    section: int = 0


@dataclass(frozen=True)
class CutRequest:
    """A read request and its parts.

    Attributes:
        read: the whole.
        shopper: parts of the prefix, history last.
        items, contexts, numbers: parts of each candidate's two texts, and the features that no piece renders.
        features: names of all features.
        separator: between pieces.
        sections: of the history, with the labels before their titles.
        compared: the field of items that is compared with histories.
        tell: from a value to its text.
    """

    read: ReadRequest
    shopper: list[Part]
    items: list[list[Part]]
    contexts: list[list[Part]]
    numbers: list[list[Part]]
    features: tuple[str, ...]
    separator: str
    sections: list[HistoryConfig]
    compared: str | None = None
    tell: Tell = plain_text

    def parts(self, position: int) -> list[Part]:
        """All parts that the candidate at a position is read with."""
        return [*self.shopper, *self.items[position], *self.contexts[position], *self.numbers[position]]

    def without(self, position: int, left_out: Collection[int]) -> ReadRequest:
        """The request where these parts of `parts(position)` are missing, those of the item in its own prompt alone."""
        shopper, item = len(self.shopper), len(self.items[position])
        kept = [part for number, part in enumerate(self.parts(position)) if number not in left_out]
        read = self.read
        if any(number < shopper for number in left_out):
            read = replace(read, prefix=self._prefix([part for part in kept if part.where in PREFIX]))
        if any(number >= shopper for number in left_out):
            candidate = read.candidates[position]
            if any(shopper <= number < shopper + item for number in left_out):
                candidate = replace(candidate, text=self._join(kept, "item"))
            if any(number >= shopper + item for number in left_out):
                candidate = replace(candidate, context=self._join(kept, "context"))
            read = _with(read, position, candidate)
        parts = [self.parts(position)[number] for number in left_out]
        titles = {part.text for part in parts if part.where == "history"}
        if titles and read.recent:
            read = replace(read, recent=tuple(thing for thing in read.recent if self.tell(thing) not in titles))
        gone = {field for part in parts for field in part.fields}
        if self.compared in {field for part in parts if part.where == "item" for field in part.fields}:
            read = _with(read, position, replace(read.candidates[position], thing=""))
        if gone & set(self.features):
            candidate = read.candidates[position]
            read = _with(read, position, replace(candidate, features=self._known(candidate, gone)))
        return read

    def _known(self, candidate: ReadCandidate, gone: Collection[str]) -> tuple[float, ...]:
        features = zip(self.features, candidate.features, strict=True)
        return tuple(math.nan if name in gone else value for name, value in features)

    def _join(self, parts: list[Part], where: str) -> str:
        return self.separator.join(part.text for part in parts if part.where == where)

    def _prefix(self, parts: list[Part]) -> str:
        texts = [self._join(parts, "shopper")]
        for number, section in enumerate(self.sections):
            titles = [part.text for part in parts if part.where == "history" and part.section == number]
            texts.append(history_text(titles, section.label, section.separator, str))
        return self.separator.join(text for text in texts if text)


def _with(read: ReadRequest, position: int, candidate: ReadCandidate) -> ReadRequest:
    """The request with another candidate at a position."""
    return replace(read, candidates=[*read.candidates[:position], candidate, *read.candidates[position + 1 :]])


def cut(reader: RequestReader, request: Mapping[str, Any], read: ReadRequest) -> CutRequest:
    """Cut a request.

    Args:
        reader: of the export.
        request: as JSON.
        read: what the reader made of it.
    """
    prompt, tell = reader.prompt, reader.renderer.tell
    if request.get("prefix") is None:
        shopper = _pieces("shopper", prompt.prefix, request.get("user") or {}, tell)
        for number, titles in enumerate(reader.titles(request.get("history"))):
            shopper += [Part("history", title, (), number) for title in map(tell, titles) if title]
    else:
        shopper = _split_prefix(read.prefix, prompt.separator, reader.sections)
    items, contexts, numbers = [], [], []
    for given, candidate in zip(request["candidates"], read.candidates, strict=True):
        entry = given if isinstance(given, Mapping) else {}
        items.append(_item(prompt.item, entry, candidate, prompt.separator, tell))
        context = entry.get("context")
        if isinstance(context, str):
            contexts.append(_split("context", candidate.context, prompt.separator))
        else:
            contexts.append(_pieces("context", prompt.context, context or {}, tell))
        numbers.append(_numbers(reader.scales, candidate, [*shopper, *items[-1], *contexts[-1]]))
    sections = reader.sections
    return CutRequest(
        read, shopper, items, contexts, numbers, reader.features, prompt.separator, sections, reader.compared, tell
    )


def _item(
    pieces: list[str], entry: Mapping[str, Any], candidate: ReadCandidate, separator: str, tell: Tell
) -> list[Part]:
    if entry.get("item") is not None:
        return _pieces("item", pieces, entry["item"], tell)
    return _split("item", candidate.text, separator)


def _pieces(where: str, pieces: list[str], fields: Mapping[str, Any], tell: Tell) -> list[Part]:
    known = {name: plain(name, fields[name], LONGEST) for name in piece_fields(pieces) if name in fields}
    rendered = [(parse_piece(text).render(known, tell), tuple(piece_fields([text]))) for text in pieces]
    return [Part(where, text, names) for text, names in rendered if text]


def _numbers(scales: Scales, candidate: ReadCandidate, parts: list[Part]) -> list[Part]:
    """The known features that none of a candidate's other parts was rendered from."""
    rendered = {field for part in parts for field in part.fields}
    known = [(name, scales[name].to_cell(value)) for name, value in zip(scales, candidate.features, strict=True)]
    known = [(name, value) for name, value in known if value is not None and name not in rendered]
    return [
        Part("category" if scales[name].scale == "category" else "number", f"{name} {plain_text(value)}", (name,))
        for name, value in known
    ]


def _split(where: str, text: str, separator: str) -> list[Part]:
    return [Part(where, part) for part in text.split(separator) if part]


def _split_prefix(text: str, separator: str, sections: Sequence[HistoryConfig]) -> list[Part]:
    """A pre-rendered prefix: what follows a section's label, at the start of a piece, are titles."""
    histories: list[Part] = []
    for number, section in reversed(list(enumerate(sections))):
        start = -1
        if section.label:
            start = 0 if text.startswith(section.label) else text.find(separator + section.label)
        if start >= 0:
            titles = text[start:].removeprefix(separator).removeprefix(section.label).split(section.separator)
            histories = [*(Part("history", title, (), number) for title in titles if title), *histories]
            text = text[:start]
    return [*_split("shopper", text, separator), *histories]
