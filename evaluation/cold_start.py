"""`equipoise newcomers RUN`: shoppers unseen in training beside the known ones, and told ever less about.

The same requests of new shoppers are scored several times: as they were told, with the profile and the latest few
events (no behaviour), with the profile alone, and with nothing at all. Nothing is trained again.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from equipoise.common.console import new_table
from equipoise.common.errors import UserError
from equipoise.common.logs import rendered
from equipoise.configs.load import read_run_config
from equipoise.configs.schema import DataConfig, RunConfig
from equipoise.data.labels import labels_of, labels_read
from equipoise.data.prepare.masked import is_prepared, mask_all_fields, mask_behaviour, mask_to_events
from equipoise.data.prepare.slates import prepare
from equipoise.data.remote_copy import bring
from equipoise.evaluation.baselines import TrainCounts
from equipoise.evaluation.evaluate_run import measure, prior_probabilities, train_counts
from equipoise.evaluation.metrics.score_table import ScoreTable
from equipoise.evaluation.report import write_json
from equipoise.evaluation.rivals import PRIOR
from equipoise.evaluation.split_scores import SplitScores, table_positions
from equipoise.modeling.model import SlateModel
from equipoise.train.assemble import open_data
from equipoise.train.validation import spread_rows

log = logging.getLogger(__name__)
FILE = "newcomers_test.json"


@dataclass(frozen=True)
class Group:
    """Requests to measure: of known or new shoppers, told as `words` makes it."""

    name: str
    new: bool
    words: Callable[[DataConfig], DataConfig] = lambda data: data


EVENTS = (5, 2, 1)
"""How many events of a new shopper are told, by default."""


def groups_of(events: Sequence[int]) -> list[Group]:
    """The groups, told ever less; `events`: how many events are told of new shoppers, a group each."""

    def latest(number: int) -> Callable[[DataConfig], DataConfig]:
        return lambda data: mask_to_events(data, number)

    return [
        Group("known", new=False),
        Group("new, as told", new=True),
        *(Group(f"new, {n} event{'s' if n > 1 else ''}", True, latest(n)) for n in sorted(events, reverse=True)),
        Group("new, profile only", True, mask_behaviour),
        Group("new, nothing told", True, mask_all_fields),
    ]


def measure_cold_start(
    folder: Path, requests: int | None, overrides: Sequence[str], events: Sequence[int] = EVENTS
) -> dict[str, Any] | None:
    """Measure all groups, write `newcomers_test.json` into the run folder and log the table.

    Args:
        folder: of the run.
        requests: most of a group; None takes `evaluate.max_requests`.
        overrides: settings to change, as `key.sub=value`.
        events: see `groups_of`.

    Raises:
        UserError: the run is unfinished, or its test split has no request of a new, or of a known, shopper.
    """
    config = read_run_config(folder, overrides)
    bring(config.data)
    counts = train_counts(config)
    most = requests or config.evaluate.max_requests
    measured, model = {}, None
    if not _tells_events(config):
        log.info("this run tells no history, so that there are no groups by events")
        events = ()
    for group in groups_of(events):
        table, fitted, model = score_group(config, folder, group, counts, most, model)
        if table is not None:
            measured[group.name] = _measured(config, table, fitted)
    if not measured:
        return None
    record = {"groups": measured, "gauc_ratio": _ratio(measured, "new, as told"), "cutoffs": config.evaluate.cutoffs}
    write_json(record, folder / FILE)
    log.info(rendered(_shown(measured, max(config.evaluate.cutoffs, default=None))))
    log.info(f"GAUC of new shoppers over that of known ones: {record['gauc_ratio']:.3f}   report: {folder / FILE}")
    return record


def _tells_events(config: RunConfig) -> bool:
    return config.data.comparison is not None or any(section.max_events for section in config.data.history_sections)


def score_group(
    config: RunConfig, run: Path, group: Group, counts: TrainCounts, most: int | None, model: SlateModel | None
) -> tuple[ScoreTable | None, dict[str, np.ndarray], SlateModel]:
    """Score the requests of a group, whose data are prepared where they are not there.

    Args:
        config: of the run.
        run: its folder.
        group: one of `groups_of`.
        counts: of the train split.
        most: requests at most, spread over the group; None scores all.
        model: of an earlier group; None loads it.

    Returns:
        Scores (None on all processes but the first); what the run's priors alone say of the same rows, by target; the
        model.
    """
    group_data = group.words(config.data)
    if group_data.folder != config.data.folder and not is_prepared(group_data, config.data):
        prepare(group_data, labels=labels_of(config.objectives), read=labels_read(config.objectives))
    group_config = config.model_copy(update={"data": group_data})
    scores = SplitScores(group_config, run)
    if model is not None:
        scores.model = model  # the same adapters: only the words differ
    slates = open_data(group_config, "test", scores.objectives, scores.tokens, scores.run).slates
    users = slates.rows["user_id"]
    rows = [row for row in range(len(slates)) if (str(users[row]) not in counts.users) == group.new]
    if not rows:
        hint = "hold some out with data.split.holdout_users" if group.new else "lower data.split.holdout_users"
        raise UserError(
            f"{group_config.data.folder} has no test request of a {group.name.split(',')[0]} shopper: {hint}"
        )
    chosen = [rows[index] for index in spread_rows(len(rows), most)]
    prior = prior_probabilities(group_config, slates, table_positions(slates, chosen))
    return scores.score_rows(slates, chosen, group.name), prior, scores.model


def _measured(config: RunConfig, table: ScoreTable, prior: dict[str, np.ndarray]) -> dict[str, Any]:
    report = measure(config, table, {target: {PRIOR: probability} for target, probability in prior.items()})
    cutoff = max(config.evaluate.cutoffs, default=None)
    ranking: dict[str, Any] = next((point for point in report["ranking"] if not any(point["omega"].values())), {})
    return {
        "requests": len(np.unique(table.request)),
        "users": report["users"],
        "clicks": report["clicks"],
        "pointwise": report["pointwise"],
        "baselines": report["baselines"],
        "against_baseline": report["against_baseline"],
        "comparisons": report["comparisons"],
        "ndcg": ranking.get(f"ndcg@{cutoff}"),
    }


def _ratio(measured: dict[str, Any], name: str) -> float:
    return measured[name]["pointwise"]["ctr"]["gauc"] / measured["known"]["pointwise"]["ctr"]["gauc"]


def _shown(measured: dict[str, Any], cutoff: int | None) -> Table:
    title = "pCTR on the test split; in brackets the best baseline's GAUC"
    table = new_table(title, ["shoppers"], ["requests", "AUC", "GAUC", "95 %", "", "NE", f"NDCG@{cutoff}"])
    for name, group in measured.items():
        ours, best = group["pointwise"]["ctr"], group["against_baseline"]["ctr"]["gauc"]
        low, high = (best or {}).get("ours_interval", (float("nan"), float("nan")))
        table.add_row(
            name,
            f"{group['requests']:,}",
            f"{ours['auc']:.3f}",
            f"{ours['gauc']:.3f}",
            f"{low:.3f}–{high:.3f}",
            f"({best['theirs']:.3f})" if best else "",
            f"{ours['ne']:.3f}",
            "–" if group["ndcg"] is None else f"{group['ndcg']:.3f}",
        )
    return table
