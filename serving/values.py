"""Values of a request as JSON or Python gives them, checked one by one."""

import math
from collections.abc import Mapping, Sequence, Sized
from typing import Any

import numpy as np

from equipoise.data.features import KINDS, CategoryScale, FeatureScale, fits
from equipoise.data.values import plain_value
from equipoise.serving.request_error import RequestError

Value = str | int | float | bool | None


def kind_of(value: Any) -> str:
    """What a value is, in the words of JSON where it has one."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, str):
        return "a text"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, Mapping):
        return "an object"
    return "a list" if isinstance(value, list | tuple) else f"of type {type(value).__name__}"


def text(field: str, value: Any, max_chars: int) -> str:
    """A text of at most `max_chars` characters.

    Raises:
        RequestError: it is none, is longer, or holds half of a surrogate pair, which no tokenizer reads.
    """
    if not isinstance(value, str):
        raise RequestError(field, f"is {kind_of(value)}: give a text")
    if len(value) > max_chars:
        raise RequestError(field, f"has {len(value):,} characters: give at most {max_chars:,}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError(field, "is no valid Unicode: give whole characters") from error
    return value


def number(field: str, value: Any) -> float:
    """A finite number.

    Raises:
        RequestError: it is none.
    """
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RequestError(field, f"is {kind_of(value)}: give a number")
    if not _finite(value):
        raise RequestError(field, "is not a finite number: give one")
    return float(value)


def identifier(field: str, value: Any, max_chars: int) -> str:
    """An id, a whole number or a text, as text.

    Raises:
        RequestError: it is neither, or empty.
    """
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, int) and not isinstance(value, bool) and _finite(value):
        return str(value)
    if not isinstance(value, str):
        raise RequestError(field, f"is {kind_of(value)}: give an id, a text or a whole number")
    if not value:
        raise RequestError(field, "is empty: give an id")
    return text(field, value, max_chars)


def plain(field: str, value: Any, max_chars: int) -> Value:
    """The value of a prompt field: a text, a finite number, true, false or null; of a list its values as one text.

    Raises:
        RequestError: it is something else.
    """
    if isinstance(value, list | tuple) and any(isinstance(each, Mapping) for each in value):
        raise RequestError(field, "is a list of objects: give texts or numbers")
    value = plain_value(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return text(field, value, max_chars)
    if not isinstance(value, int | float):
        raise RequestError(field, f"is {kind_of(value)}: give a text, a number, true, false, null or a list of such")
    if not _finite(value):
        raise RequestError(field, "is not a finite number: give one, or null where it is unknown")
    return value


def numeric(field: str, value: Value) -> None:
    """Check the value of a field that the prompt turns into words by its size.

    Raises:
        RequestError: it is not a finite number, nor text that spells one.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return
    try:
        finite = math.isfinite(float(value))
    except ValueError:
        finite = False
    if not finite:
        raise RequestError(field, f"is '{str(value)[:40]}', but the prompt reads a number there: give one or null")


def feature(field: str, value: Any, scale: FeatureScale) -> float:
    """The raw value of a feature: a number that its scale takes, or text that spells one; of a category a plain value.

    NaN where the training data did not show the category.

    Raises:
        RequestError: it is none.
    """
    if isinstance(scale, CategoryScale):
        code = scale.read(value)
        return math.nan if code is None else code
    try:
        value_read = float(value) if isinstance(value, str) else number(field, value)
    except ValueError:
        value_read = math.nan
    if not fits(value_read, scale.scale):
        hint = f"give a {KINDS[scale.scale]}, or null where it is unknown"
        raise RequestError(field, f"is '{str(value)[:40]}': {hint}")
    return value_read


def mapping(field: str, value: Any) -> Mapping[str, Any]:
    """An object.

    Raises:
        RequestError: it is none, or a key of it is no text.
    """
    if not isinstance(value, Mapping):
        raise RequestError(field, f"is {kind_of(value)}: give an object")
    if not all(isinstance(key, str) for key in value):
        raise RequestError(field, "has a key that is no text: name fields by texts")
    return value


def sequence(field: str, value: Any) -> Sequence[Any]:
    """A list.

    Raises:
        RequestError: it is none.
    """
    value = value.tolist() if hasattr(value, "tolist") else value  # of NumPy and pandas
    if not isinstance(value, list | tuple):
        raise RequestError(field, f"is {kind_of(value)}: give a list")
    return value


def filled(value: Any) -> Any:
    """The value, or None where it is an empty list or object, of NumPy and pandas too."""
    return None if isinstance(value, Sized) and not len(value) else value


def known_keys(field: str, value: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse a key that nobody would read.

    Raises:
        RequestError: names it and the known ones.
    """
    for key in value:
        if key not in known:
            raise RequestError(field, f"has the unknown key '{key[:40]}': use {', '.join(known)}")


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond float64
        return False
