"""`equipoise diagnose RUN`: which objectives conflict, where, since when: two tables, a few sentences and a picture."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from equipoise.common.console import new_table
from equipoise.common.logs import rendered
from equipoise.configs.load import read_run_config
from equipoise.evaluation.balance.balance_plot import draw
from equipoise.evaluation.balance.conflict_groups import GroupConflict, group_sentences, read_conflicts
from equipoise.evaluation.balance.diagnosis import Diagnosis, conclusions, diagnose, read_history, signed

log = logging.getLogger(__name__)

MOST_GROUPS = 10
"""Groups of candidates that the table shows."""


def diagnose_run(folder: Path) -> None:
    """Log the diagnosis of a run folder and write `balance.png` into it.

    Raises:
        UserError: the folder holds no run, or no balance records.
    """
    config = read_run_config(folder)
    diagnosis = diagnose(read_history(folder), list(config.objectives.active()))
    if diagnosis.pairs:
        log.info(rendered(pairs_table(diagnosis)))
    log.info(rendered(objectives_table(diagnosis)))
    conflicts = read_conflicts(folder)
    if conflicts:
        log.info(rendered(groups_table(conflicts)))
    for sentence in [*conclusions(diagnosis), *group_sentences(conflicts)]:
        log.info(sentence)
    if any(pair.conflicting and not pair.layers for pair in diagnosis.pairs):
        log.info("Set balancing.probe_every to learn in which trunk layers.")
    log.info(f"picture: {draw(folder)}")


def pairs_table(diagnosis: Diagnosis) -> Table:
    """One row per pair, the lowest late cosine first."""
    table = new_table(
        f"pairs of objectives over {diagnosis.steps} steps: cosines, share in conflict",
        ["pair"],
        ["mean", "first\nthird", "last\nthird", "share\n< 0", "< 0\nsince", "conflict", "lowest\nin layer"],
    )
    for pair in diagnosis.pairs:
        layer = pair.worst_layer
        table.add_row(
            f"{pair.first} – {pair.second}",
            *(signed(value) for value in (pair.cosine, pair.early, pair.late)),
            _share(pair.conflicts),
            _step(pair.since),
            "yes" if pair.conflicting else "no",
            "–" if layer is None else f"{layer} ({signed(pair.layers[layer])})",
            style="bold" if pair.conflicting else None,
        )
    return table


def objectives_table(diagnosis: Diagnosis) -> Table:
    """One row per objective, in the order of the config."""
    table = new_table(
        "objectives: weights on raw gradients; what the step does to each",
        ["objective"],
        ["weight", "norm", "share\nof step", "cosine", "against", "< 0\nsince", "zero", "not\nfinite"],
    )
    for objective in diagnosis.objectives:
        table.add_row(
            objective.name,
            _number(objective.weight),
            _number(objective.norm),
            _share(objective.share),
            signed(objective.along),
            _share(objective.against),
            _step(objective.against_since),
            _share(objective.zero),
            _share(objective.nonfinite),
        )
    return table


def groups_table(conflicts: Sequence[GroupConflict]) -> Table:
    """The groups that objectives disagree about most, the lowest z first."""
    table = new_table(
        "groups of candidates by how much two objectives disagree about them",
        ["group", "pair"],
        ["candidates", "cosine", "z", "cosine in\nthe trunk", "sure"],
    )
    for each in conflicts[:MOST_GROUPS]:
        table.add_row(
            f"{each.column} {each.value}",
            f"{each.first} – {each.second}",
            f"{each.candidates:,}",
            signed(each.cosine),
            signed(each.z, 1),
            "–" if each.trunk_cosine is None else signed(each.trunk_cosine),
            "yes" if each.sure else "no",
            style="bold" if each.sure else None,
        )
    return table


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3g}"


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1%}"


def _step(step: int | None) -> str:
    return "–" if step is None else str(step)
