"""Ranked slates of a few requests before and after the adjustments: who moved, and by how much."""

from collections.abc import Mapping, Sequence
from typing import Any

from equipoise.evaluation.compare.run_record import RunRecord, json_object
from equipoise.evaluation.example_slates import reranked
from equipoise.evaluation.report import default_omegas, omega_name
from equipoise.evaluation.run_page.evaluation_part import evaluate_command
from equipoise.evaluation.run_page.front_part import chosen_omega
from equipoise.evaluation.run_page.missing import missing

TOP = 10


def slates_part(record: RunRecord, split: str) -> dict[str, Any]:
    """Per example its slate under pure relevance, the evaluation's operating points and the chosen one."""
    command = evaluate_command(record.folder, split)
    found = json_object(record.folder / f"examples_{split}.json", f"run `{command}` again")
    if found is None:
        return missing("No example slates were kept when this run was evaluated.", command)
    ranking = (record.evaluations.get(split) or {}).get("ranking") or []
    points = [point["omega"] for point in ranking] or default_omegas(found["objectives"])
    omegas = {omega_name(omega): omega for omega in [{}, *points]}
    chosen = chosen_omega(record.folder)
    if chosen is not None:
        omegas.setdefault(omega_name(chosen), chosen)
    return {
        "attributes": found["attributes"],
        "points": list(omegas),
        "chosen": None if chosen is None else omega_name(chosen),
        "top": TOP,
        "examples": [
            {**example, "slates": {name: slate(example["candidates"], omega) for name, omega in omegas.items()}}
            for example in found["examples"]
        ],
    }


def slate(candidates: Sequence[Mapping[str, Any]], omega: Mapping[str, float]) -> dict[str, Any]:
    """The best under ω with their places before, and those that ω has moved out of them."""
    rows = reranked(candidates, omega, len(candidates))
    return {"rows": rows[:TOP], "out": [row for row in rows[TOP:] if row["before"] <= TOP]}
