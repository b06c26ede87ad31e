"""From one request, as JSON or Python objects, to the texts of its prompts: rendered as in training.

    {"request_id"?: id, "user"?: {field: value}, "history"?: [title or {"item_id": id}] or {section: [such]},
     "prefix"?: text, "recent"?: [title or {"item_id": id}],
     "candidates": [{"item_id"?: id, "item"?: {field: value}, "text"?: text, "context"?: {field: value} or text,
                     "features"?: {name: number}, "attributes"?: {name: value}, "value"?: number,
                     "boost"?: number} or id],
     "omega"?: {objective: weight}, "value_weight"?: number, "top"?: number}

`value` is what a candidate is worth (margin, price …), positive; where the export's operating point names a field as
value, that field of `context` stands for it. With a `value_weight` every candidate needs one. `boost` is added to the
utility as it is.

Fields that the export does not read are refused (`Limits.unknown_fields` lets them be ignored), as every other unknown
key is; those that it reads and that are not given, not even as null, are counted (`ReadRequest.missing`). The same
item may stand among the candidates twice, for it can be offered in two ways. A feature of the export, such as price,
is read from `features`, else from the fields of context and item, else it is the known item's own; where none of them
gives it, it is unknown and adds nothing to a logit. A rate (data.rates) that is not given is that of the export's last
state, by the columns that it counts by, read from the same places: item_id is the candidate's own, user_id may be a
field of `user`. An attribute by which lists are made (docs/lists.md) is read from `attributes`, else from the fields of
the item, else it is the known item's own; where ω of its objective is not 0 a candidate must have it.

Where the export compares candidates with what the shopper took, `recent` says what that was, the latest first; without
it, `history` does. A candidate's own thing is the field of its `item` that the export compares, else the known item's,
else its text.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from equipoise.common.lists import ListRule, attribute_text
from equipoise.configs.schema import HistoryConfig, PromptConfig, sections_of
from equipoise.data.features import Scales
from equipoise.data.prompts import is_missing, parse_piece, piece_fields
from equipoise.data.rates import RateLookup
from equipoise.data.requests.renderer import PromptRenderer
from equipoise.data.things import ThingTexts
from equipoise.data.values import value_text
from equipoise.serving.field_names import FieldNames, absent
from equipoise.serving.items import KnownItems
from equipoise.serving.limits import Limits
from equipoise.serving.omega import OperatingPoint
from equipoise.serving.request_error import RequestError
from equipoise.serving.utility import UtilityWeights
from equipoise.serving.values import (
    feature,
    identifier,
    kind_of,
    known_keys,
    mapping,
    number,
    numeric,
    plain,
    sequence,
    text,
)

KEYS = ("request_id", "user", "history", "prefix", "recent", "candidates", "omega", "value_weight", "top")
EXAMPLE_KEYS = ("name", "clicked", "converted")
"""What an example of an export holds next to its request; it is not read here."""
CANDIDATE_KEYS = ("item_id", "item", "text", "context", "features", "attributes", "value", "boost")


@dataclass(frozen=True)
class ReadCandidate:
    """One candidate: its item_id, if it has one, the two texts of its prompt, its value, its boost, and its features.

    A feature that is not known is NaN. `thing` is what is compared with the history, "" where nothing is. `attributes`:
    what lists are made by, in the order of the export's rule, None where it is not known. `missing`: the fields, as
    context.NAME, item.NAME and features.NAME, that are read and not given.
    """

    item_id: str | None
    text: str
    context: str
    value: float | None = None
    boost: float = 0.0
    features: tuple[float, ...] = ()
    thing: str = ""
    attributes: tuple[str | None, ...] = ()
    missing: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class ReadRequest:
    """A request as texts, with the weights of its utility and the number of candidates that it wants.

    `recent`: the things that the shopper took, the latest first. `computed`: columns of priors that are known already,
    float32 (C,) each. `missing`: how often each field that is read is not given, by PLACE.NAME.
    """

    request_id: str | None
    prefix: str
    candidates: list[ReadCandidate]
    omega: dict[str, float]
    top: int | None
    weights: UtilityWeights = field(default_factory=UtilityWeights)
    recent: tuple[str, ...] = ()
    computed: Mapping[str, np.ndarray] = field(default_factory=dict)
    missing: Mapping[str, int] = field(default_factory=dict, compare=False)

    @property
    def things(self) -> ThingTexts:
        """What the candidates are compared with."""
        return ThingTexts(self.recent, [candidate.thing for candidate in self.candidates], self.computed)

    def only(self, positions: Sequence[int]) -> "ReadRequest":
        """The same request for some of its candidates."""
        chosen = np.asarray(positions, np.int64)
        computed = {name: column[chosen] for name, column in self.computed.items()}
        return replace(self, candidates=[self.candidates[position] for position in positions], computed=computed)


@dataclass(frozen=True)
class Template:
    """The fields that pieces of the prompt read, and those among them that they read as numbers."""

    names: list[str]
    numeric: set[str]

    @staticmethod
    def of(pieces: list[str]) -> "Template":
        """The fields of these pieces."""
        placeholders = [placeholder for piece in pieces for placeholder in parse_piece(piece).placeholders]
        return Template(piece_fields(pieces), {placeholder.name for placeholder in placeholders if placeholder.filter})


class RequestReader:
    """Reads requests for one export.

    Args:
        prompt, history: its templates.
        items: the items that it knows by id.
        operating_point: its weights ω and their bounds.
        limits: what one request may hold.
        features: scales of the features that heads and priors read, by name.
        rates: the last state of the rates among them.
        compared: the field of items that is compared with histories; None where nothing is compared.
        lists: how the export makes lists; None where it sorts by utility.
    """

    def __init__(
        self,
        prompt: PromptConfig,
        history: HistoryConfig | Sequence[HistoryConfig],
        items: KnownItems,
        operating_point: OperatingPoint,
        limits: Limits,
        features: Scales | None = None,
        rates: RateLookup | None = None,
        compared: str | None = None,
        lists: ListRule | None = None,
    ) -> None:
        self.rates, self.compared, self.lists = rates or RateLookup(), compared, lists
        self.attributes = tuple(lists.attributes()) if lists else ()
        self.scales = dict(features or {})
        self.features = tuple(self.scales)
        self.prompt, self.sections, self.items = prompt, sections_of(history), items
        self.renderer = PromptRenderer(prompt, history)
        self.operating_point, self.limits = operating_point, limits
        self.user, self.item, self.context = map(Template.of, (prompt.prefix, prompt.item, prompt.context))
        self.names = self._names()

    def _names(self) -> FieldNames:
        """The names that requests may give to fields."""
        templates = {"user": self.user.names, "item": self.item.names, "context": self.context.names}
        more = {"item": [self.compared], "context": [self.value_field]}
        return FieldNames.of(templates, self.features, self.rates.keys, self.attributes, more)

    def _check_names(self, place: str, field: str, given: Any) -> None:
        """Refuse names that nothing reads, unless they are to be ignored."""
        if not self.limits.unknown_fields:
            self.names.check(place, field, mapping(field, given))

    @property
    def fields(self) -> dict[str, list[str]]:
        """The fields that the prompts read, of `user`, `item` and `context`, and the `features`."""
        names = {"user": self.user.names, "item": self.item.names, "context": self.context.names}
        return {**names, "features": list(self.features)}

    @property
    def value_field(self) -> str | None:
        """The context field that the operating point takes as the value of a candidate that brings none."""
        return self.operating_point.value_field

    def with_limits(self, limits: Limits) -> "RequestReader":
        """The same with other limits."""
        shared = (self.prompt, self.sections, self.items, self.operating_point)
        return RequestReader(*shared, limits, self.scales, self.rates, self.compared, self.lists)

    def read(self, request: Any) -> ReadRequest:
        """The texts of a request.

        Raises:
            RequestError: names the field, what is wrong with it and the way out.
        """
        request = mapping("the request", request)
        known_keys("the request", {key: None for key in request if key not in EXAMPLE_KEYS}, KEYS)
        name = request.get("request_id")
        if "candidates" not in request:
            raise RequestError("candidates", "is missing: give a list of candidates")
        omega = self.operating_point.omega_of(request.get("omega"))
        weights = self.operating_point.weights_of(omega, request.get("value_weight"))
        candidates = self._candidates(request["candidates"], request.get("user"))
        missing = Counter([*self.missing_of_shopper(request), *(name for each in candidates for name in each.missing)])
        read = ReadRequest(
            request_id=None if name is None else identifier("request_id", name, self.limits.text_chars),
            prefix=self.shopper(request),
            candidates=candidates,
            omega=omega,
            top=self._top(request.get("top")),
            weights=weights,
            recent=self.recent(request),
            missing=missing,
        )
        if weights.value:
            self._all_have_values(read.candidates)
        if self.lists is not None:
            self._all_have_attributes(read.candidates, self.lists.attributes(omega))
        return read

    def _all_have_attributes(self, candidates: list[ReadCandidate], names: Sequence[str]) -> None:
        for position, candidate in enumerate(candidates):
            for name in names:
                if candidate.attributes[self.attributes.index(name)] is None:
                    raise RequestError(
                        f"candidates[{position}].attributes.{name}",
                        "is missing, and ω makes lists by it: give it, or the item_id of an item that the export knows",
                    )

    def _all_have_values(self, candidates: list[ReadCandidate]) -> None:
        for position, candidate in enumerate(candidates):
            if candidate.value is None:
                field = self.operating_point.value_field
                hint = "a positive number" if field is None else f"a positive number, or '{field}' in its context"
                raise RequestError(f"candidates[{position}].value", f"is missing: give {hint}, or value_weight 0")

    def _top(self, value: Any) -> int | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise RequestError("top", f"is {str(value)[:40]}: give a whole number from 1 on, or leave it out")
        return value

    def shopper(self, request: Mapping[str, Any]) -> str:
        """The text of the shopper of a request: its pre-rendered `prefix`, or rendered from `user` and `history`.

        Raises:
            RequestError: names the field, what is wrong with it and the way out.
        """
        prefix, user, history = request.get("prefix"), request.get("user"), request.get("history")
        if prefix is not None:
            if user is not None or history is not None:
                raise RequestError("prefix", "stands for user and history: give either the one or the others")
            return self.renderer.ready(text("prefix", prefix, self.limits.prefix_chars))
        fields = self._fields("user", "user", {} if user is None else user, self.user)
        return self.renderer.prefix(fields, self.titles(history))

    def missing_of_shopper(self, request: Mapping[str, Any]) -> list[str]:
        """The fields, as user.NAME, that the prompts read and a request does not give; none of a ready prefix."""
        given = request.get("user")
        if request.get("prefix") is not None:
            return []
        return absent("user", self.user.names, given if isinstance(given, Mapping) else {})

    def titles(self, history: Any) -> list[list[str]]:
        """The titles of each section of a history that the prompt shows: the first `max_events` that are not blank.

        A list is the only section; of several sections it is an object with a list for each one's name.
        """
        try:
            given = self.renderer.by_section(history)
        except ValueError as error:
            raise RequestError("history", str(error)) from error
        named = isinstance(history, Mapping)
        fields = [f"history.{section.key}" if named else "history" for section in self.sections]
        lists = [self._entries(field, titles) for field, titles in zip(fields, given, strict=True)]
        if (entries := sum(map(len, lists))) > self.limits.history:
            raise RequestError("history", f"has {entries:,} entries: give at most {self.limits.history:,}")
        return self.renderer.titles(
            [
                [self._title(f"{field}[{position}]", entry) for position, entry in enumerate(titles)]
                for field, titles in zip(fields, lists, strict=True)
            ]
        )

    def recent(self, request: Mapping[str, Any]) -> tuple[str, ...]:
        """The things that a shopper took, by `recent`, else by `history`; none where the export compares nothing."""
        if self.compared is None:
            return ()
        if request.get("recent") is not None:
            lists = {"recent": sequence("recent", request["recent"])}
        elif isinstance(history := request.get("history"), Mapping):
            lists = {f"history.{key}": self._entries(f"history.{key}", given) for key, given in history.items()}
        else:
            lists = {"history": self._entries("history", history)}
        if (entries := sum(map(len, lists.values()))) > self.limits.history:
            raise RequestError("recent", f"has {entries:,} entries: give at most {self.limits.history:,}")
        return tuple(
            self._taken(f"{name}[{position}]", entry)
            for name, given in lists.items()
            for position, entry in enumerate(given)
        )

    @staticmethod
    def _entries(field: str, given: Any) -> Sequence[Any]:
        return sequence(field, [] if given is None else given)

    def _taken(self, field: str, entry: Any) -> str:
        if isinstance(entry, Mapping) and isinstance(entry.get("item_id"), str | int) and set(entry) == {"item_id"}:
            item = identifier(f"{field}.item_id", entry["item_id"], self.limits.text_chars)
            if (thing := self.items.things.get(item)) is not None:
                return thing
        return self._title(field, entry)

    def _thing(self, entry: Mapping[str, Any], item_id: str | None, words: str) -> str:
        """What a candidate is compared by; its fields have been checked."""
        if self.compared is None:
            return ""
        item = entry.get("item")
        own = item.get(self.compared) if isinstance(item, Mapping) else None
        if not is_missing(own):
            return value_text(own) or ""
        return self.items.things.get(item_id or "", words)

    def _title(self, field: str, entry: Any) -> str:
        if not isinstance(entry, Mapping):
            if not isinstance(entry, str):
                raise RequestError(field, f"is {kind_of(entry)}: give a title, or an object with an item_id")
            return text(field, entry, self.limits.text_chars)
        known_keys(field, mapping(field, entry), ("item_id",))
        if "item_id" not in entry:
            raise RequestError(field, "has no item_id: give one, or the title as a text")
        item = identifier(f"{field}.item_id", entry["item_id"], self.limits.text_chars)
        title = self.items.titles.get(item)
        if title is None:
            raise RequestError(f"{field}.item_id", f"is '{item[:40]}', whose title this export lacks: give the title")
        return title

    def _candidates(self, value: Any, user: Any) -> list[ReadCandidate]:
        given = sequence("candidates", value)
        if not given:
            raise RequestError("candidates", "is empty: give at least one")
        if len(given) > self.limits.candidates:
            raise RequestError("candidates", f"has {len(given):,} entries: give at most {self.limits.candidates:,}")
        return [self.candidate(f"candidates[{position}]", entry, user) for position, entry in enumerate(given)]

    def candidate(self, field: str, entry: Any, user: Any = None) -> ReadCandidate:
        """One candidate, which stands in the request as `field`; `user`: the fields of the shopper, where it has some.

        Raises:
            RequestError: names the field, what is wrong with it and the way out.
        """
        if not isinstance(entry, Mapping):
            entry = {"item_id": identifier(field, entry, self.limits.text_chars)}
        known_keys(field, mapping(field, entry), CANDIDATE_KEYS)
        name, item, ready_text = entry.get("item_id"), entry.get("item"), entry.get("text")
        item_id = None if name is None else identifier(f"{field}.item_id", name, self.limits.text_chars)
        if item is not None and ready_text is not None:
            raise RequestError(field, "has both item and text: give one of them")
        if ready_text is not None:
            words = self.renderer.ready(text(f"{field}.text", ready_text, self.limits.text_chars))
            if not words.strip():
                raise RequestError(f"{field}.text", "is blank: give the text of the item")
        elif item is not None:
            words = self._item_text(f"{field}.item", item)
        elif item_id is None:
            raise RequestError(field, "names no item: give its item_id, its fields as item, or its text")
        else:
            words = self.items.texts.get(item_id, "")
            if not words:
                hint = "give its fields as item or its text"
                raise RequestError(f"{field}.item_id", f"is '{item_id[:40]}', which this export does not know: {hint}")
        context = self._context(f"{field}.context", entry.get("context"))
        for place in ("features", "attributes"):
            if entry.get(place) is not None:
                self._check_names(place, f"{field}.{place}", entry[place])
        features = self._features(field, entry, item_id, user)
        return ReadCandidate(
            item_id,
            words,
            context,
            self._value(field, entry),
            self._boost(field, entry.get("boost")),
            features,
            self._thing(entry, item_id, words),
            tuple(self._attribute(name, field, entry, item_id) for name in self.attributes),
            tuple(self._missing(entry, features, user)),
        )

    def _missing(self, entry: Mapping[str, Any], features: tuple[float, ...], user: Any) -> list[str]:
        """The fields that are read and not given for a candidate, whose fields have been checked."""
        item, context = entry.get("item"), entry.get("context")
        missing = [] if item is None else absent("item", self.item.names, item)
        if not isinstance(context, str):
            missing += absent("context", self.context.names, context or {})
        sources = [each for each in (entry.get("features"), context, item, user) if isinstance(each, Mapping)]
        unknown = zip(self.features, features, strict=True)
        asked = [name for name, value in unknown if math.isnan(value) and name not in self.rates]
        return missing + [f"features.{name}" for name in asked if not any(name in each for each in sources)]

    def _attribute(self, name: str, field: str, entry: Mapping[str, Any], item_id: str | None) -> str | None:
        """What a candidate has of an attribute by which lists are made: by its own fields, else as the export knows."""
        for key in ("attributes", "item"):
            fields = entry.get(key)
            fields = {} if fields is None else mapping(f"{field}.{key}", fields)
            value = plain(f"{field}.{key}.{name}", fields.get(name), self.limits.text_chars)
            if not is_missing(value):
                return attribute_text(value)
        return self.items.attributes.get(name, {}).get(item_id or "")

    def _value(self, field: str, entry: Mapping[str, Any]) -> float | None:
        """What a candidate is worth: its `value`, or the field of its context that the operating point names."""
        where, given = f"{field}.value", entry.get("value")
        name, context = self.operating_point.value_field, entry.get("context")
        if given is None and name is not None and isinstance(context, Mapping) and context.get(name) is not None:
            where, given = f"{field}.context.{name}", context[name]
        if given is None:
            return None
        value = number(where, given)
        if value <= 0:
            raise RequestError(where, f"is {value:g}: give a positive number, for its logarithm is added")
        return value

    def _boost(self, field: str, given: Any) -> float:
        if given is None:
            return 0.0
        boost, most = number(f"{field}.boost", given), self.limits.boost
        if abs(boost) > most:
            raise RequestError(f"{field}.boost", f"is {boost:g}: give a number from -{most:g} to {most:g}")
        return boost

    def _features(self, field: str, entry: Mapping[str, Any], item_id: str | None, user: Any) -> tuple[float, ...]:
        """The raw values of all features, in their order: the candidate's own, else the item's, else the shopper's."""
        given = entry.get("features")
        given = {} if given is None else mapping(f"{field}.features", given)
        sources = [(f"{field}.features", given)]
        for key in ("context", "item"):
            if isinstance(fields := entry.get(key), Mapping):
                sources.append((f"{field}.{key}", fields))
        shopper = user if isinstance(user, Mapping) else {}
        raw = []
        for name in self.features:
            value = self._feature(name, sources)
            if value is None:
                value = self.items.values.get(name, {}).get(item_id or "")
            if value is None:
                value = self._feature(name, [("user", shopper)])
            if value is None and name in self.rates:
                value = self.rates.value(name, lambda key: self._key(key, [*sources, ("user", shopper)], item_id))
            raw.append(math.nan if value is None else value)
        return tuple(raw)

    def _feature(self, name: str, sources: list[tuple[str, Mapping[str, Any]]]) -> float | None:
        """The raw value of a feature in the first of these sources that has it."""
        for source, fields in sources:
            value = plain(f"{source}.{name}", fields.get(name), self.limits.text_chars)
            if not is_missing(value):
                return feature(f"{source}.{name}", value, self.scales[name])
        return None

    def _key(self, name: str, sources: list[tuple[str, Mapping[str, Any]]], item_id: str | None) -> Any:
        """The value of a column that rates count by, None where nothing gives it: sources, the shopper's last."""
        if name == "item_id":
            return item_id
        *of_candidate, of_shopper = sources
        for where, fields in of_candidate:
            value = plain(f"{where}.{name}", fields.get(name), self.limits.text_chars)
            if not is_missing(value):
                return value
        own = self.items.keys.get(name, {}).get(item_id or "")
        where, fields = of_shopper
        return own if own is not None else plain(f"{where}.{name}", fields.get(name), self.limits.text_chars)

    def _item_text(self, field: str, item: Any) -> str:
        fields = self._fields("item", field, item, self.item)
        words = self.renderer.item(fields)
        if not words:
            raise RequestError(field, f"tells nothing of the item: give at least one of {', '.join(self.item.names)}")
        return words

    def _context(self, field: str, value: Any) -> str:
        if isinstance(value, str):
            return self.renderer.ready(text(field, value, self.limits.text_chars))
        fields = self._fields("context", field, {} if value is None else value, self.context)
        return self.renderer.context(fields)

    def _fields(self, place: str, field: str, value: Any, template: Template) -> dict[str, Any]:
        """The values of the fields that a template reads; others have known names."""
        given, most = mapping(field, value), self.limits.text_chars
        self._check_names(place, field, given)
        fields = {name: plain(f"{field}.{name}", given[name], most) for name in template.names if name in given}
        for name in template.numeric & fields.keys():
            numeric(f"{field}.{name}", fields[name])
        return fields
