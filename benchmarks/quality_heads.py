"""Scores of a run as it was before its first step: priors and heads that learned alone, in minutes, without texts."""

from collections.abc import Sequence

import numpy as np
import torch

from equipoise.common.calibration import with_calibration
from equipoise.configs.schema import RunConfig
from equipoise.data.slate_set import SlateSet
from equipoise.evaluation.evaluate_run import prior_probabilities
from equipoise.evaluation.metrics.score_table import ScoreTable
from equipoise.evaluation.split_scores import SplitScores, score_table, table_positions
from equipoise.modeling.model import SlateModel
from equipoise.train.assemble import assemble_model, open_data, open_split
from equipoise.train.head_phase import column_batches, logits_alone, start_heads
from equipoise.train.objectives.registry import build_objectives
from equipoise.train.token_caches import find_tokens
from equipoise.train.validation import spread_rows

SAMPLE = 10


def score_heads(config: RunConfig) -> ScoreTable:
    """Let the heads of a prepared configuration learn as a training does before its first step; score test requests."""
    return score_heads_on(config, ["test"])["test"][0]


def score_heads_on(config: RunConfig, splits: Sequence[str]) -> dict[str, tuple[ScoreTable, dict[str, np.ndarray]]]:
    """Split → the scores of `score_heads`, and by target what the priors alone say of the same rows, (N,)."""
    torch.manual_seed(config.seed)
    binary = {name: options for name, options in config.objectives.active().items() if name in ("ctr", "cvr")}
    config = config.model_copy(update={"objectives": type(config.objectives).model_validate(binary)})
    objectives = build_objectives(config.objectives)
    data = open_data(config, "train", objectives, find_tokens(config))
    model, _ = assemble_model(config, data)
    start_heads(model, config, data)
    found = {}
    for split in splits:
        slates = open_split(data, split).slates
        rows = spread_rows(len(slates), config.evaluate.max_requests)
        table = score_table(config, data.objectives, slates, rows, _scores(model, slates, rows))
        found[split] = (table, prior_probabilities(config, slates, table_positions(slates, rows)))
    return found


def score_start(scores: SplitScores, split: str) -> ScoreTable:
    """The scores of a run whose best weights are those of its start, in which nothing that reads texts says anything.

    Raises:
        AssertionError: the model itself says something else of SAMPLE requests.
    """

    def table(slates: SlateSet, rows: list[int]) -> ScoreTable:
        logits = _scores(scores.model, slates, rows)
        zeros = dict.fromkeys(scores.model.listwise, np.zeros(len(logits["item"]), np.float32))
        known = with_calibration(logits | zeros, scores.calibrations)
        return score_table(scores.config, scores.objectives, slates, rows, known, scores.lists)

    slates, sample = scores.rows(split, SAMPLE)
    whole = scores.score_rows(slates, sample, "holding against the model")
    assert whole is not None, "one process"
    made = table(slates, sample)
    np.testing.assert_array_equal(made.item, whole.item)
    for name in ("pctr", "pcvr"):
        said, expected = getattr(made, name), getattr(whole, name)
        assert (said is None) == (expected is None), name  # a run without conversions has no pCVR
        if expected is not None:
            np.testing.assert_allclose(said, expected, atol=1e-6)
    return table(*scores.rows(split))


@torch.inference_mode()
def _scores(model: SlateModel, slates: SlateSet, rows: list[int]) -> dict[str, np.ndarray]:
    """Logits without the tower's vector, labels and items of some slates, by name, (N,) each."""
    names, tokens, positions = list(model.pointwise), slates.tokens, slates.tokens.impressions(rows)
    known = {"item": tokens.item, "click": tokens.click, "conversion": tokens.conversion}
    batches = [logits_alone(model, names, batch) for batch in column_batches(slates, rows)]
    logits = {name: torch.cat([batch[name] for batch in batches]).numpy() for name in names}
    return logits | {name: values[positions] for name, values in known.items()}
