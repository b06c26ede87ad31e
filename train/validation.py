"""Pointwise metrics on a few validation requests during training."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from equipoise.common.link import Link
from equipoise.configs.objective_spec import ObjectiveSpec
from equipoise.configs.schema import RunConfig
from equipoise.data.slate_set import SlateSet
from equipoise.evaluation.metrics import pointwise_metrics
from equipoise.evaluation.metrics.own_targets import BUILT_IN_TARGETS, own_metrics, own_targets
from equipoise.train.assemble import DataParts
from equipoise.train.objectives.base import Objective
from equipoise.train.scoring import LABEL, WEIGHT, score_slates
from equipoise.train.sureness import best_level, groups_of
from equipoise.train.world import World


def spread_rows(count: int, most: int | None) -> list[int]:
    """At most `most` of `count` rows, evenly spread over time, the same on every process."""
    if most is None or most >= count:
        return list(range(count))
    return np.linspace(0, count - 1, num=most).round().astype(int).tolist()


def labels_and_predictions(
    scores: Mapping[str, np.ndarray], objectives: Mapping[str, Objective]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """From `score_slates`: labels by column, and what the pointwise objectives beside ctr and cvr say, by name."""
    labels = {name.removeprefix(LABEL): values for name, values in scores.items() if name.startswith(LABEL)}
    labels |= {name: scores[name] for name in ("click", "conversion")}
    own = [name for name, o in objectives.items() if o.kind == "pointwise" and name not in BUILT_IN_TARGETS]
    return labels, {name: objectives[name].link.value(scores[name]) for name in own}


def score_rows(
    config: RunConfig,
    model: nn.Module,
    slates: SlateSet,
    rows: Sequence[int],
    device: torch.device,
    world: World,
    progress: Callable[[int], None] = lambda slates: None,
) -> dict[str, np.ndarray]:
    """`score_slates` in the batches of evaluation."""
    return score_slates(
        model,
        slates,
        rows,
        max_tokens=config.evaluate.max_tokens,
        max_row=config.tokens.max_row,
        device=device,
        world=world,
        progress=progress,
    )


def users_of(slates: SlateSet, rows: Sequence[int], scores: Mapping[str, np.ndarray]) -> np.ndarray:
    """user_id of every candidate that `score_slates` gives of these rows, str (N,)."""
    users = dict(zip(rows, slates.rows.select(list(rows))["user_id"], strict=True))
    return np.array([users[row] for row in scores["row"].tolist()], dtype=str)


@dataclass(frozen=True)
class Validation:
    """What a model says of some requests of the valid split.

    Attributes:
        scores: as of `score_slates`, with one entry per candidate.
        user: user_id of every candidate, str (N,).
        objectives: of the run.
        specs: of the same.
    """

    scores: Mapping[str, np.ndarray]
    user: np.ndarray
    objectives: Mapping[str, Objective]
    specs: Mapping[str, ObjectiveSpec]

    def metrics(self) -> dict[str, float]:
        """`valid/…` metrics, by `data.weights`."""
        scores, weight = self.scores, self.scores.get(WEIGHT)
        pctr, pcvr = (Link().value(scores[name]) if name in scores else None for name in BUILT_IN_TARGETS)
        assert pctr is not None, "every run has ctr"
        found = pointwise_metrics(scores["click"], scores["conversion"], pctr, pcvr, scores["row"], self.user, weight)
        targets = own_targets(self.specs, *labels_and_predictions(scores, self.objectives), scores["row"], weight)
        for name, values in own_metrics(self.specs, targets).items():
            found |= {f"{name}/{metric}": value for metric, value in values.items()}
        return {f"valid/{name}": value for name, value in found.items()}

    def at_best_level(self) -> "Validation":
        """The same with clicks, and conversions of what was clicked, predicted as often as they were seen."""
        clicked = self.scores["click"] == 1
        seen = {"ctr": ("click", np.full(len(clicked), True)), "cvr": ("conversion", clicked)}
        moved, weight = dict(self.scores), self.scores.get(WEIGHT)
        for name, (label, rows) in seen.items():
            if name in moved and rows.any():
                mass = None if weight is None else weight[rows]
                moved[name] = moved[name] + best_level(moved[name][rows], moved[label][rows], mass)
        return replace(self, scores=moved)

    def without_each_group(self, value: Callable[[Mapping[str, float]], float]) -> list[float]:
        """A number of the metrics where each group of requests is left out in turn (train/sureness.py)."""
        group = groups_of(self.scores["row"])
        found = []
        for number in range(int(group.max(initial=0)) + 1):
            kept = group != number
            rest = {name: values[kept] for name, values in self.scores.items()}
            found.append(value(replace(self, scores=rest, user=self.user[kept]).metrics()))
        return found


def validate(config: RunConfig, model: nn.Module, data: DataParts, device: torch.device, world: World) -> Validation:
    """Score `train.eval_requests` slates spread over the valid split."""
    rows = spread_rows(len(data.slates), config.train.eval_requests)
    scores = score_rows(config, model, data.slates, rows, device, world)
    return Validation(scores, users_of(data.slates, rows, scores), data.objectives, config.objectives.specs())
