"""The name that somebody meant."""

import difflib
from collections.abc import Iterable

LONGEST = 60
"""Characters of a name that are compared: the time grows with their square."""
MOST = 500
"""Known names that are compared."""


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The nearest known name, whatever its case; None where none is near.

    Args:
        name: as it was written.
        known: those there are.
        cutoff: least similarity, 0 to 1, as difflib measures it.
    """
    folded = {other.lower(): other for other in list(known)[:MOST]}
    close = difflib.get_close_matches(name[:LONGEST].lower(), folded, n=1, cutoff=cutoff)
    return folded[close[0]] if close else None


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """A clause that names the nearest known name, or "" where none is near; arguments as those of `nearest`."""
    found = nearest(name, known, cutoff)
    return f" (did you mean '{found}'?)" if found is not None else ""
