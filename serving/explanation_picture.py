"""An explanation as horizontal bars: the parts that move the utility most, and the terms of the utility.

The logarithm of a probability is below 0 for every candidate, so it is drawn as neither for nor against this one.
"""

from collections.abc import Sequence
from pathlib import Path

from equipoise.common.atomic import atomic_write
from equipoise.common.errors import UserError
from equipoise.common.page.colours import AGAINST, FOR, NEUTRAL
from equipoise.serving.explain import Explained

MOST_BARS = 16
LONGEST = 52


def draw(path: Path, candidates: Sequence[Explained]) -> None:
    """Write a PNG, SVG or PDF with one row of two panels per candidate, whole or not at all.

    Raises:
        UserError: the ending is unknown.
    """
    from matplotlib.figure import Figure

    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg", "pdf"):
        raise UserError(f"{path} has an unknown ending: use .png, .svg or .pdf")
    heights = [
        1.2 + 0.26 * max(min(len(candidate.contributions), MOST_BARS), len(candidate.terms)) for candidate in candidates
    ]
    figure = Figure(figsize=(11, sum(heights)), layout="constrained")
    axes = figure.subplots(len(candidates), 2, squeeze=False, width_ratios=(3, 2), height_ratios=heights)
    for (parts, terms), candidate in zip(axes, candidates, strict=True):
        largest = sorted(candidate.contributions, key=lambda one: -abs(one.utility))[:MOST_BARS]
        values = [one.utility for one in largest]
        _bars(parts, [f"{one.part.text} ({one.part.where})" for one in largest], values, [_tone(one) for one in values])
        parts.set_title(
            f"{_short(candidate.scored.item_id or candidate.text)}, number {candidate.scored.rank}: parts of the prompt"
        )
        parts.set_xlabel("utility with the part − without it")
        logs = candidate.scored.log_probabilities
        names = [f"log p of {name}" if name in logs else name for name in candidate.terms]
        tones = [NEUTRAL if name in logs else _tone(value) for name, value in candidate.terms.items()]
        _bars(terms, names, list(candidate.terms.values()), tones)
        terms.set_title(f"terms of the utility {candidate.scored.utility:.2f}")
    with atomic_write(path) as partial:
        figure.savefig(partial, format=kind, dpi=130)


def _tone(value: float) -> str:
    return FOR if value >= 0 else AGAINST


def _bars(axis: object, names: Sequence[str], values: Sequence[float], tones: Sequence[str]) -> None:
    places = range(len(names))
    axis.barh(places, values, color=tones)  # type: ignore[attr-defined]
    axis.set_yticks(places, [_short(name).replace("$", r"\$") for name in names])  # type: ignore[attr-defined]
    axis.invert_yaxis()  # type: ignore[attr-defined]
    axis.axvline(0, color="0.4", linewidth=0.8)  # type: ignore[attr-defined]


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
