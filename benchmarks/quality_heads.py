"""Scores of a run before its first step: priors and heads that learned alone, without the backbone, in minutes."""

from typing import cast

import numpy as np
import torch

from equipoise.configs.schema import RunConfig
from equipoise.data.batches import build_columns
from equipoise.data.slate_set import SlateSet
from equipoise.evaluation.metrics.score_table import ScoreTable
from equipoise.evaluation.split_scores import score_table
from equipoise.modeling.heads import PointHead
from equipoise.modeling.model import SlateModel
from equipoise.train.assemble import assemble_model, open_data, open_split
from equipoise.train.head_phase import fit_heads, start_comparisons
from equipoise.train.objectives.registry import build_objectives
from equipoise.train.token_caches import find_tokens
from equipoise.train.validation import spread_rows

SLATES = 64
"""Of a batch that is scored."""


def score_heads(config: RunConfig) -> ScoreTable:
    """Let the heads of a prepared configuration learn as a training does before its first step; score test requests."""
    torch.manual_seed(config.seed)
    binary = {name: options for name, options in config.objectives.active().items() if name in ("ctr", "cvr")}
    config = config.model_copy(update={"objectives": type(config.objectives).model_validate(binary)})
    objectives = build_objectives(config.objectives)
    data = open_data(config, "train", objectives, find_tokens(config))
    model, _ = assemble_model(config, data)
    if data.beside.vectors is not None:
        start_comparisons(model, data.beside.vectors.vectors)
    valid, specs = open_split(data, "valid").slates, config.objectives.specs()
    fit_heads(model, specs, data.slates, valid, config.train.head_epochs, config.seed)
    test = open_split(data, "test").slates
    rows = spread_rows(len(test), config.evaluate.max_requests)
    return score_table(config, data.objectives, test, rows, _scores(model, test, rows))


@torch.inference_mode()
def _scores(model: SlateModel, slates: SlateSet, rows: list[int]) -> dict[str, np.ndarray]:
    """Logits without the tower's vector, labels and items of some slates, by name, (N,) each."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("item", "click", "conversion", *model.pointwise)}
    for begin in range(0, len(rows), SLATES):
        batch = build_columns([slates.columns(row) for row in rows[begin : begin + SLATES]])
        inputs, count = batch.inputs(), len(batch.click)
        for name in model.pointwise:
            head = cast(PointHead, model.heads[name])
            logit = head.beside_text(model.head_inputs(name, inputs, count)) + model.offsets[name]
            found[name].append(logit.numpy())
    tokens = slates.tokens
    positions = np.concatenate([np.arange(tokens.first[row], tokens.first[row + 1]) for row in rows])
    known = {"item": tokens.item, "click": tokens.click, "conversion": tokens.conversion}
    return {
        name: np.concatenate(found[name]) if name in model.pointwise else np.asarray(known[name])[positions]
        for name in found
    }
