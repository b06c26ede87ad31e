"""The names of a request's fields: unknown ones are refused with the one that was meant, missing ones are counted."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from equipoise.common.nearest import did_you_mean
from equipoise.serving.request_error import RequestError

PLACES = ("user", "item", "context", "features", "attributes")
IDS = {"user": ("user_id",), "item": ("item_id",), "context": ()}
"""Ids that rows of tables hold, and that nothing reads there."""
MOST_TOLD = 20
"""Names that a sentence lists."""


@dataclass(frozen=True)
class FieldNames:
    """The names that an export reads.

    Attributes:
        known: by place, those that are read there.
    """

    known: Mapping[str, Collection[str]]

    @staticmethod
    def of(
        templates: Mapping[str, Iterable[str]],
        numbers: Iterable[str],
        keys: Iterable[str],
        attributes: Iterable[str],
        more: Mapping[str, Iterable[str | None]],
    ) -> "FieldNames":
        """The names of an export.

        Args:
            templates: fields of the prompts of `user`, `item` and `context`.
            numbers: features, which may stand in any of them.
            keys: columns that rates count by, as well.
            attributes: by which lists are made.
            more: by place what else is read there; None is no name.
        """
        shared, attributes = [*numbers, *keys], list(attributes)
        known = {place: [*fields, *shared, *IDS[place]] for place, fields in templates.items()}
        known |= {"features": shared, "attributes": attributes}
        known["item"] += attributes
        for place, names in more.items():
            known[place] += [name for name in names if name is not None]
        return FieldNames({place: tuple(dict.fromkeys(names)) for place, names in known.items()})

    def check(self, place: str, field: str, given: Mapping[str, Any]) -> None:
        """Refuse an unknown name among the fields of one place.

        Args:
            place: one of PLACES.
            field: where they stand in the request.
            given: the fields.

        Raises:
            RequestError: names it and the name that was meant.
        """
        known = self.known[place]
        for name in given:
            if name not in known:
                raise RequestError(f"{field}.{name[:40]}", f"is not read{self._hint(name, known)}")

    @staticmethod
    def _hint(name: str, known: Collection[str]) -> str:
        if meant := did_you_mean(name, known):
            return f"{meant}: correct the name, or leave it out"
        if not known:
            return ", nor is anything else there: leave it out"
        more = ", …" if len(known) > MOST_TOLD else ""
        return f": use {', '.join(list(known)[:MOST_TOLD])}{more}, or leave it out"


def absent(place: str, names: Iterable[str], given: Mapping[str, Any]) -> list[str]:
    """The fields, as PLACE.NAME, that a template reads and that are not given, not even as unknown (null)."""
    return [f"{place}.{name}" for name in names if name not in given]
