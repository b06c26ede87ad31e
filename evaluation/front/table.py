"""What `equipoise front` prints: the ends of the front and the chosen points, then each choice on both splits."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from equipoise.common.console import new_table
from equipoise.evaluation.front.axes import axis_title
from equipoise.evaluation.front.choice import Choice
from equipoise.evaluation.front.pareto import Front
from equipoise.evaluation.front.points import Measurement

NO_STAR = "\u00a0"  # rich would strip a plain space, and the digits would not stand in line


def front_table(measurement: Measurement, front: Front, choices: Mapping[str, Choice], cutoff: int) -> Table:
    """Pure relevance, the extreme points and the choices, one row each, on the validation split."""
    table = new_table(f"Points on the validation split, axes @{cutoff}", ["", "ω"])
    for axis in measurement.axes:
        title = axis_title(axis)
        table.add_column(title, justify="right", overflow="fold", min_width=max(map(len, title.split())))
    rows = [("pure relevance", 0), *((f"best {axis_title(axis)}", point) for axis, point in front.extremes.items())]
    rows += [(f"chosen by {rule}", choice.point) for rule, choice in choices.items()]
    for name, point in rows:
        values = [f"{value:.4f}" for value in measurement.values[point]]
        words = measurement.points[point].words()
        table.add_row(name, "" if words == name else words, *values)
    return table


def choice_table(record: Mapping[str, Any], words: str) -> Table:
    """One choice on both splits, beside pure relevance; * where the interval of a difference leaves out 0."""
    numbers = ["relevance", "chosen", "difference", "its 95 % interval"]
    table = new_table(f"{record['way']}: {words}", ["axis", "split"], numbers)
    for axis in record["valid"]:
        for split in ("valid", "test"):
            row = record.get(split, {}).get(axis)
            if row:
                table.add_row(axis_title(axis) if split == "valid" else "", split, *_cells(row))
    return table


def _cells(row: Mapping[str, Any]) -> list[str]:
    low, high = row["difference_interval"]
    bounds = "–" if math.isnan(low) else f"{low:+.3f} … {high:+.3f}{'*' if low > 0 or high < 0 else NO_STAR}"
    return [f"{row['relevance']:.4f}", f"{row['value']:.4f}", f"{row['difference']:+.4f}", bounds]


def kept_sentences(kept: Sequence[Mapping[str, Any]]) -> list[str]:
    """Whether each constraint holds on the test split, of `kept_on_test`."""
    sentences = []
    for each in kept:
        low, high = each["interval"]
        sure = "" if math.isnan(low) else f" (95 % interval {low:.4f} to {high:.4f})"
        word = "kept" if each["kept"] else "BROKEN"
        sentences.append(
            f"{each['constraint']} is {word} on the test split: {each['axis']} {each['value']:.4f}{sure}, asked for "
            f"{each['bound']:.4f}"
        )
    return sentences


def front_sentence(front: Front) -> str:
    """The size of the front and its hypervolume."""
    volume = front.covered()
    return (
        f"front of {', '.join(front.axes)}: {len(front.points)} points; hypervolume "
        f"{volume['normalised']:.4f} of its box (pure relevance alone {volume['normalised_relevance_alone']:.4f}), "
        f"{volume['from_zero']:.4f} from zero (pure relevance alone {volume['from_zero_relevance_alone']:.4f})"
    )


def choices_in_words(records: Mapping[str, Mapping[str, Any]], measurement: Measurement) -> Iterator[Table | str]:
    """Every choice, how it was made, how sure it is, and its table."""
    for record in records.values():
        yield choice_table(record, measurement.points[record["point"]].words())
        like, same = len(record["front_points_not_told_apart"]), record["same_point_in_resamples"]
        sure = "" if math.isnan(same) else f"; the same point in {same:.0%} of the resamples"
        yield f"  {record['how']}{sure}; {like} other points of the front cannot be told apart from it"
        if not record["on_front"]:
            yield "  it is not on the front: another point is as good on every axis of it"
