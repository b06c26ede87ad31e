"""Integer codes for strings, with one name for what is missing."""

from collections.abc import Sequence
from typing import Any

import numpy as np

UNKNOWN = "unknown"


def known(value: Any) -> str:
    """The value as a string; None, NaN and "" are `unknown`, which then counts as a value like any other."""
    if value is None or value == "" or value != value:
        return UNKNOWN
    return str(value)


def encode(values: Sequence[Any] | np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Codes of the values, int64 (N,), and the sorted names that they stand for."""
    texts = [known(value) for value in values]
    names = sorted(set(texts))
    code_of = {name: code for code, name in enumerate(names)}
    return np.fromiter((code_of[text] for text in texts), np.int64, len(texts)), names
