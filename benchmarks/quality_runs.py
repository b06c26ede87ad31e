"""Trainings of `benchmarks.quality`: each is done once, and its scores of the test requests are kept."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.quality_heads import score_heads, score_start
from equipoise.common.errors import UserError
from equipoise.configs.load import read_run_config
from equipoise.configs.schema import RunConfig
from equipoise.evaluation.evaluate_run import fitted_rivals
from equipoise.evaluation.metrics.score_table import ScoreTable
from equipoise.evaluation.split_scores import SplitScores
from equipoise.modeling.precision import settle_precision
from equipoise.train.best_adapters import ABOUT
from equipoise.train.job import train
from equipoise.train.prepare_run import prepare_data

FIRST_SEED = 17


def trained(config: RunConfig) -> Path:
    """The folder of a finished run of this configuration, trained now or before.

    Raises:
        UserError: a signal stopped the training.
    """
    run = config.output
    prepared(config)  # also of a finished run, which is scored on them
    summary = run / "summary.json"
    finished = summary.is_file() and json.loads(summary.read_text("utf-8")).get("finished")
    if finished and read_run_config(run) == settle_precision(config):
        return run
    if train(config, overwrite=True) is None:
        raise UserError(f"training {run} was stopped: start the command again, which begins with that training")
    return run


def prepared(config: RunConfig) -> None:
    """Prepare the data of a configuration where they are not yet."""
    if not (config.data.folder / "manifest.json").is_file():
        prepare_data(config)


@dataclass
class Scored:
    """What the runs of some variants said of the same test rows.

    Attributes:
        tables: variant → a score table of each seed.
        seconds: variant → training times.
        rivals: target → simple model → probabilities (N,).
        config: of the whole.
    """

    tables: dict[str, list[ScoreTable]]
    seconds: dict[str, list[float]]
    rivals: dict[str, dict[str, np.ndarray]]
    config: RunConfig


def score_variants(
    settings: Callable[[str, int], RunConfig],
    seeds: Mapping[str, int],
    requests: int | None,
    heads: bool = False,
) -> Scored:
    """Train what is missing of each variant, as many seeds as are asked for, and score the test requests.

    Args:
        settings: the configuration of a variant and seed.
        seeds: variant → trainings, the reference first.
        requests: test requests that are scored, spread over all; None scores all.
        heads: score heads that learned alone instead; nothing is trained, and no rival fitted.
    """
    found = Scored(
        {name: [] for name in seeds}, {name: [] for name in seeds}, {}, settings(next(iter(seeds)), FIRST_SEED)
    )
    for variant, count in seeds.items():
        for seed in range(FIRST_SEED, FIRST_SEED + count):
            config = settings(variant, seed)
            asked = config.model_copy(
                update={"evaluate": config.evaluate.model_copy(update={"max_requests": requests})}
            )
            print(config.output, flush=True)
            if heads:
                prepared(config)
                begun = time.perf_counter()
                found.tables[variant].append(score_heads(asked))
                found.seconds[variant].append(time.perf_counter() - begun)
                continue
            run = trained(config)
            found.seconds[variant].append(json.loads((run / "summary.json").read_text("utf-8"))["seconds"])
            scores = SplitScores(asked, run)
            best = scores.adapters / ABOUT
            at_start = best.is_file() and not json.loads(best.read_text("utf-8"))["step"]
            table = score_start(scores, "test") if at_start else scores.score("test", reuse=True)
            assert table is not None, "one process gathers all scores itself"
            found.tables[variant].append(table)
            if variant == "ours" and not found.rivals:
                found.rivals = fitted_rivals(scores, "test", table)
    return found
