"""The front of trade-offs that `equipoise front` left in a run folder."""

from pathlib import Path
from typing import Any

from equipoise.evaluation.compare.run_record import json_object
from equipoise.evaluation.front.axes import axis_title
from equipoise.evaluation.front.trade_off import TradeOff
from equipoise.evaluation.run_page.missing import missing

FILE_NAME = "front.json"


def front_part(folder: Path) -> dict[str, Any]:
    """All points with their metrics, which are on the front, and the choices on both splits."""
    command = f"equipoise front {folder}"
    found = json_object(folder / FILE_NAME, f"run `{command}` again")
    if found is None:
        return missing("No trade-offs are measured yet.", command)
    names = list(found["points"][0]["metrics"])
    choices = [
        {
            "way": way,
            "counts": way == found.get("chosen"),
            "words": words_of(choice),
            **{key: choice.get(key) for key in ("how", "point", "omega", "valid", "test")},
        }
        for way, choice in (found.get("choices") or {}).items()
    ]
    return {
        "axes": found["axes"],
        "names": [{"name": name, "words": f"{axis_title(name)}@{found['cutoff']}"} for name in names],
        "requests": found["valid"]["requests"],
        "hypervolume": found["hypervolume"],
        "points": [
            {"words": words_of(point), "metrics": point["metrics"], "on_front": point["on_front"]}
            for point in found["points"]
        ],
        "choices": choices,
    }


def words_of(point: dict[str, Any]) -> str:
    """ "pure relevance", or the weights of a point of front.json."""
    weights = (point.get("omega"), point.get("relevance_weights"), point.get("value_exponents"))
    return TradeOff(*(each or {} for each in weights)).words()


def chosen_omega(folder: Path) -> dict[str, float] | None:
    """ω of the point that counts; None without one, or where ω alone does not describe it."""
    found = json_object(folder / FILE_NAME, f"run `equipoise front {folder}` again") or {}
    choice = (found.get("choices") or {}).get(found.get("chosen"))
    if choice is None:
        return None
    point = TradeOff(choice["omega"], choice.get("relevance_weights") or {}, choice.get("value_exponents") or {})
    return dict(choice["omega"]) if point.servable else None
