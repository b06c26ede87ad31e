"""Recall out of the whole catalogue, beside the baselines, for runs with an objective of retrieval."""

from typing import Any

from equipoise.evaluation.compare.run_record import RunRecord
from equipoise.evaluation.recall.words import CUTOFFS, TITLES, sentences
from equipoise.evaluation.run_page.evaluation_part import evaluate_command
from equipoise.evaluation.run_page.missing import missing


def recall_part(record: RunRecord, split: str) -> dict[str, Any] | None:
    """Recall at every cutoff of every ranking, over all items and new ones; None without the objective."""
    if not record.config["objectives"].get("recall"):
        return None
    found = record.evaluations.get(split, {}).get("recall")
    if found is None:
        return missing(f"Recall is not measured on the {split} split yet.", evaluate_command(record.folder, split))
    columns = [
        {"name": f"{which}/recall{cutoff}", "words": f"{title} @{cutoff}"}
        for which, title in TITLES.items()
        for cutoff in CUTOFFS
    ]
    return {
        "split": split,
        "shoppers": found["shoppers"],
        "items": found["items"],
        "weights": found["weights"],
        "columns": columns,
        "rows": [{"name": name, "cells": _cells(found, name)} for name in found["all"]],
        "verdict": sentences(found),
    }


def _cells(found: dict[str, Any], name: str) -> dict[str, dict[str, Any]]:
    """Value and interval of a ranking in every column."""
    cells = {}
    for which in TITLES:
        for cutoff in CUTOFFS:
            key = f"recall{cutoff}"
            cells[f"{which}/{key}"] = {
                "value": found[which][name][key],
                "interval": found[which][name][f"{key}_interval"],
            }
    return cells
