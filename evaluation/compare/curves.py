"""The curves of a run over its steps: losses, weights, cosines and validation metrics, thinned."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

GROUPS = {
    "losses": r"train/loss/(.+)",
    "weights": r"balance/weight/(.+)",
    "cosines": r"balance/cosine/(.+)",
    "validation": r"valid/(.+/(?:auc|gauc|ne))",
}
"""Group → pattern of the values that belong to it; what it catches is their name there."""

Curve = tuple[list[int], list[float]]


def _finder(groups: Mapping[str, str]) -> Callable[[str], tuple[str, str] | None]:
    """Key of the history → its group and name; None where it belongs to none. Keys repeat, so answers are kept."""
    patterns = {group: re.compile(pattern) for group, pattern in groups.items()}

    @cache
    def place_of(key: str) -> tuple[str, str] | None:
        matches = ((group, pattern.fullmatch(key)) for group, pattern in patterns.items())
        return next(((group, match[1]) for group, match in matches if match), None)

    return place_of


_compared = _finder(GROUPS)


def most_points(runs: int) -> int:
    """How many points each curve keeps, so that the page of hundreds of runs stays small."""
    return max(40, min(200, 8000 // max(runs, 1)))


def drawn(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of the history with what is drawn alone."""
    return {key: value for key, value in record.items() if key == "step" or _compared(key) is not None}


def curves(
    history: Sequence[Mapping[str, Any]], most: int, groups: Mapping[str, str] | None = None
) -> dict[str, dict[str, Curve]]:
    """Group → name → steps and values; a longer curve is thinned to means over neighbouring records.

    Args:
        history: records by step; a value that is null or missing is passed over.
        most: points of a curve.
        groups: as GROUPS, which is taken where there are none.
    """
    group_of = _compared if groups is None else _finder(groups)
    series: dict[str, dict[str, Curve]] = {group: {} for group in groups or GROUPS}
    for record in history:
        for key, value in record.items():
            group_and_name = group_of(key)
            if group_and_name is not None and value is not None:
                steps, values = series[group_and_name[0]].setdefault(group_and_name[1], ([], []))
                steps.append(int(record["step"]))
                values.append(float(value))
    return {group: {name: thinned(*curve, most) for name, curve in named.items()} for group, named in series.items()}


def thinned(steps: Sequence[int], values: Sequence[float], most: int) -> Curve:
    """At most `most` points: the last step and the mean value of as many neighbouring ones as it takes."""
    size = -(-len(steps) // most)
    parts = [slice(start, start + size) for start in range(0, len(steps), size or 1)]
    return [steps[part][-1] for part in parts], [sum(values[part]) / len(values[part]) for part in parts]
