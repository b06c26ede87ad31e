"""The curves of a run over its steps: losses, weights, cosines and validation metrics, thinned."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

GROUPS = {
    "losses": re.compile(r"train/loss/(.+)"),
    "weights": re.compile(r"balance/weight/(.+)"),
    "cosines": re.compile(r"balance/cosine/(.+)"),
    "validation": re.compile(r"valid/(.+/(?:auc|gauc|ne))"),
}
"""Group → which records of the history belong to it, and what they are called there."""

Curve = tuple[list[int], list[float]]


def most_points(runs: int) -> int:
    """How many points each curve keeps, so that the page of hundreds of runs stays small."""
    return max(40, min(200, 8000 // max(runs, 1)))


def drawn(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of the history with what is drawn alone."""
    return {key: value for key, value in record.items() if key == "step" or _place(key) is not None}


def curves(history: Sequence[Mapping[str, Any]], most: int) -> dict[str, dict[str, Curve]]:
    """Group → name → steps and values; a longer curve is thinned to means over neighbouring records.

    Args:
        history: records by step; a value that is null or missing is passed over.
        most: points of a curve.
    """
    found: dict[str, dict[str, Curve]] = {group: {} for group in GROUPS}
    for record in history:
        for key, value in record.items():
            place = _place(key)
            if place is not None and value is not None:
                steps, values = found[place[0]].setdefault(place[1], ([], []))
                steps.append(int(record["step"]))
                values.append(float(value))
    return {group: {name: thinned(*curve, most) for name, curve in named.items()} for group, named in found.items()}


def thinned(steps: Sequence[int], values: Sequence[float], most: int) -> Curve:
    """At most `most` points: the last step and the mean value of as many neighbouring ones as it takes."""
    size = -(-len(steps) // most)
    parts = [slice(start, start + size) for start in range(0, len(steps), size or 1)]
    return [steps[part][-1] for part in parts], [sum(values[part]) / len(values[part]) for part in parts]


@cache
def _place(key: str) -> tuple[str, str] | None:
    for group, pattern in GROUPS.items():
        match = pattern.fullmatch(key)
        if match:
            return group, match[1]
    return None
