"""Which products and shoppers objectives disagree about, as a run's `conflicts.json` tells it (balancing.map)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import norm

from equipoise.common.errors import UserError
from equipoise.train.balancing.conflict_rows import FILE

LEVEL = 0.05
"""Chance that any group at all is called a sure conflict where no objectives disagree."""
TOLD = 3


@dataclass(frozen=True)
class GroupConflict:
    """What two objectives want of one group of candidates.

    Attributes:
        column, value: the group.
        first, second: the objectives.
        candidates: that training has seen of it.
        cosine: of the two gradients at the outputs over all its candidates: below 0 where one wants up what the other
            wants down.
        z: sum of the products of those gradients over its standard error.
        trunk_cosine, trunk_z: the same at the boundary; None where one of the two is 0 there.
        sure: whether z is further below 0 than the worst of all groups would be by chance.
    """

    column: str
    value: str
    first: str
    second: str
    candidates: int
    cosine: float
    z: float
    trunk_cosine: float | None
    trunk_z: float | None
    sure: bool


def read_conflicts(run: Path) -> list[GroupConflict]:
    """All groups and pairs of a run, the lowest z first; none where the run has no map.

    Raises:
        UserError: the file is damaged.
    """
    path = run / FILE
    if not path.is_file():
        return []
    try:
        rows = json.loads(path.read_text("utf-8"))
        bound = float(norm.ppf(LEVEL / max(len(rows), 1)))
        found = [GroupConflict(**row, sure=bool(row["z"] < bound)) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): train again, or remove it") from error
    return sorted(found, key=lambda each: each.z)


def group_sentences(conflicts: Sequence[GroupConflict]) -> list[str]:
    """One sentence per column and pair that surely conflicts, or that none does; nothing without a map."""
    sentences = []
    for column in dict.fromkeys(sorted(each.column for each in conflicts)):
        sure = [each for each in conflicts if each.column == column and each.sure]
        if not sure:
            sentences.append(f"By {column}, no two objectives surely disagree about any group.")
        for pair in dict.fromkeys((each.first, each.second) for each in sure):
            named = [each for each in sure if (each.first, each.second) == pair]
            listed = ", ".join(f"{each.value} (cosine {each.cosine:+.2f})" for each in named[:TOLD])
            more = f" and {len(named) - TOLD} more" if len(named) > TOLD else ""
            sentences.append(f"By {column}, {' and '.join(pair)} disagree about {listed}{more}.".replace("-0.", "−0."))
    return sentences
