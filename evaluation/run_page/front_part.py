"""The measured front of a run as pages draw it, and the point of it that counts."""

from pathlib import Path
from typing import Any

from equipoise.evaluation.compare.run_records import json_object
from equipoise.evaluation.front.axes import axis_title
from equipoise.evaluation.front.trade_off import TradeOff
from equipoise.evaluation.run_page.facts import missing

FILE_NAME = "front.json"


def front_part(folder: Path) -> dict[str, Any]:
    """All points with their metrics, which are on the front, and the choices on both splits."""
    command = f"equipoise front {folder}"
    front = json_object(folder / FILE_NAME, f"run `{command}` again")
    if front is None:
        return missing("No trade-offs are measured yet.", command)
    names = list(front["points"][0]["metrics"])
    choices = [
        {
            "way": rule,
            "counts": rule == front.get("chosen"),
            "words": words_of(choice),
            **{key: choice.get(key) for key in ("how", "point", "omega", "valid", "test")},
        }
        for rule, choice in (front.get("choices") or {}).items()
    ]
    return {
        "axes": front["axes"],
        "names": [{"name": name, "words": f"{axis_title(name)}@{front['cutoff']}"} for name in names],
        "requests": front["valid"]["requests"],
        "hypervolume": front["hypervolume"],
        "points": [
            {"words": words_of(point), "metrics": point["metrics"], "on_front": point["on_front"]}
            for point in front["points"]
        ],
        "choices": choices,
    }


def words_of(point: dict[str, Any]) -> str:
    """ "pure relevance", or the weights of a point of front.json."""
    weights = (point.get("omega"), point.get("relevance_weights"), point.get("value_exponents"))
    return TradeOff(*(weight or {} for weight in weights)).words()


def chosen_omega(folder: Path) -> dict[str, float] | None:
    """ω of the point that counts; None without one, or where ω alone does not describe it."""
    front = json_object(folder / FILE_NAME, f"run `equipoise front {folder}` again") or {}
    choice = (front.get("choices") or {}).get(front.get("chosen"))
    if choice is None:
        return None
    point = TradeOff(choice["omega"], choice.get("relevance_weights") or {}, choice.get("value_exponents") or {})
    return dict(choice["omega"]) if point.servable else None
