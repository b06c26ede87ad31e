"""The parts of a run's report, read from its folder alone: data, balancing, evaluation, recall, slates."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from equipoise.common.errors import UserError
from equipoise.common.lists import ListRule
from equipoise.evaluation.balance.conflict_groups import group_sentences, read_conflicts
from equipoise.evaluation.balance.diagnose import MOST_GROUPS
from equipoise.evaluation.balance.diagnosis import conclusions, diagnose, read_history
from equipoise.evaluation.compare.run_records import RunRecord, json_object
from equipoise.evaluation.example_slates import reranked
from equipoise.evaluation.metrics.metric_names import LOWER, TARGETS, WORDS
from equipoise.evaluation.recall.recall_of_run import CUTOFFS, TITLES, sentences
from equipoise.evaluation.report import default_omegas, json_ready, omega_name
from equipoise.evaluation.rivals import rival_sentences
from equipoise.evaluation.run_page.facts import missing
from equipoise.evaluation.run_page.front_part import chosen_omega
from equipoise.train.data_record import FILE_NAME as DATA


def data_part(folder: Path) -> dict[str, Any]:
    """Counts, splits, what was dropped and the notes of the prepared data, as the run folder keeps them."""
    record = json_object(folder / DATA, f"run `equipoise evaluate {folder}` again")
    if record is None:
        return missing("What the data hold was not kept when this run was trained.", f"equipoise evaluate {folder}")
    return {key: record.get(key) for key in ("source", "folder", "created", "counts", "splits", "dropped", "notes")}


def balance_part(record: RunRecord) -> dict[str, Any]:
    """Pairs (the worst conflict first), objectives, and the conclusions in sentences."""
    try:
        diagnosis = diagnose(read_history(record.folder), record.objectives)
    except UserError:
        command = f"equipoise train {record.folder}/config.yaml --resume"
        return missing("The run has not reached a log line yet, so nothing is known of its gradients.", command)
    conflicts = read_conflicts(record.folder)
    pairs = [
        {**asdict(pair), "conflicting": pair.conflicting, "worst_layer": pair.worst_layer} for pair in diagnosis.pairs
    ]
    return json_ready(
        {
            "steps": diagnosis.steps,
            "pairs": pairs,
            "objectives": [asdict(objective) for objective in diagnosis.objectives],
            "groups": [asdict(each) for each in conflicts[:MOST_GROUPS]],
            "sentences": [*conclusions(diagnosis), *group_sentences(conflicts)],
        }
    )


COLUMNS = ("auc", "gauc", "uauc", "log_loss", "ne", "ece", "predicted", "observed")


def evaluation_part(record: RunRecord, split: str) -> dict[str, Any]:
    """Counts, targets beside their baselines with calibration, operating points, provider and user groups, verdict."""
    evaluation = record.evaluations.get(split)
    command = evaluate_command(record.folder, split)
    if evaluation is None:
        return missing(f"The run is not evaluated on the {split} split yet.", command)
    cutoff = max(evaluation.get("cutoffs") or [], default=None)
    counts = ("rows", "requests", "users", "items", "clicks", "conversions", "clicked_conversions", "train_rows")
    return {
        "split": split,
        "counts": {key: evaluation.get(key) for key in counts},
        "cutoff": cutoff,
        "columns": [{"name": key, "words": WORDS[key]} for key in COLUMNS],
        "lower": list(LOWER),
        "targets": [_target(evaluation, target, command) for target in evaluation.get("pointwise") or {}],
        "points": _points(evaluation, cutoff),
        "user_groups": evaluation.get("user_groups") or {},
        "verdict": [*rival_sentences(evaluation.get("comparisons") or {}), *(evaluation.get("verdict") or [])],
    }


def evaluate_command(folder: Path, split: str) -> str:
    """The command that evaluates a run."""
    return f"equipoise evaluate {folder} --split {split}"


def _target(evaluation: dict[str, Any], target: str, command: str) -> dict[str, Any]:
    """A target's metrics, ours and the baselines', and its bins; an older evaluation has no bins."""
    bins = (evaluation.get("calibration") or {}).get(target)
    absent = missing("This evaluation holds no bins of calibration: evaluate again.", command)
    return {
        "name": target,
        "words": TARGETS.get(target, target),
        "ours": evaluation["pointwise"][target],
        "baselines": (evaluation.get("baselines") or {}).get(target) or {},
        "calibration": absent if bins is None else {"bins": bins},
    }


def _points(evaluation: dict[str, Any], cutoff: int | None) -> list[dict[str, Any]]:
    """Every operating point and ranking baseline at the largest cutoff: NDCG, ILD, coverage, and groups' exposure."""
    named = [(omega_name(point["omega"]), point) for point in evaluation.get("ranking") or []]
    named += list((evaluation.get("ranking_baselines") or {}).items())
    at = "" if cutoff is None else f"@{cutoff}"
    return [
        {
            "name": name,
            **{key: point.get(f"{key}{at}") for key in ("ndcg", "ild", "coverage")},
            "exposure": point.get(f"exposure{at}"),
        }
        for name, point in named
    ]


def recall_part(record: RunRecord, split: str) -> dict[str, Any] | None:
    """Recall at every cutoff of every ranking, over all items and new ones; None without the objective."""
    if not record.config["objectives"].get("recall"):
        return None
    recall = record.evaluations.get(split, {}).get("recall")
    if recall is None:
        return missing(f"Recall is not measured on the {split} split yet.", evaluate_command(record.folder, split))
    columns = [
        {"name": f"{which}/recall{cutoff}", "words": f"{title} @{cutoff}"}
        for which, title in TITLES.items()
        for cutoff in CUTOFFS
    ]
    return {
        "split": split,
        "shoppers": recall["shoppers"],
        "items": recall["items"],
        "weights": recall["weights"],
        "columns": columns,
        "rows": [{"name": name, "cells": _cells(recall, name)} for name in recall["all"]],
        "verdict": sentences(recall),
    }


def _cells(report: dict[str, Any], name: str) -> dict[str, dict[str, Any]]:
    """Value and interval of a ranking in every column."""
    cells = {}
    for which in TITLES:
        for cutoff in CUTOFFS:
            key = f"recall{cutoff}"
            cells[f"{which}/{key}"] = {
                "value": report[which][name][key],
                "interval": report[which][name][f"{key}_interval"],
            }
    return cells


TOP = 10


def slates_part(record: RunRecord, split: str) -> dict[str, Any]:
    """Per example its slate under pure relevance, the evaluation's operating points and the chosen one."""
    command = evaluate_command(record.folder, split)
    examples = json_object(record.folder / f"examples_{split}.json", f"run `{command}` again")
    if examples is None:
        return missing("No example slates were kept when this run was evaluated.", command)
    ranking = (record.evaluations.get(split) or {}).get("ranking") or []
    points = [point["omega"] for point in ranking] or default_omegas(examples["objectives"])
    omegas = {omega_name(omega): omega for omega in [{}, *points]}
    chosen = chosen_omega(record.folder)
    if chosen is not None:
        omegas.setdefault(omega_name(chosen), chosen)
    lists = ListRule.of(examples.get("lists"))
    return {
        "attributes": examples["attributes"],
        "points": list(omegas),
        "chosen": None if chosen is None else omega_name(chosen),
        "top": TOP,
        "examples": [
            {**example, "slates": {name: slate(example["candidates"], omega, lists) for name, omega in omegas.items()}}
            for example in examples["examples"]
        ],
    }


def slate(
    candidates: Sequence[Mapping[str, Any]], omega: Mapping[str, float], lists: ListRule | None = None
) -> dict[str, Any]:
    """The best under ω with their places before, and those that ω has moved out of them; `lists`: how they are made."""
    rows = reranked(candidates, omega, len(candidates), lists)
    return {"rows": rows[:TOP], "out": [row for row in rows[TOP:] if row["before"] <= TOP]}
