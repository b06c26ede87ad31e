"""What recall begins as, of a prepared folder and of a run, which keeps its own copy.

It lies in PREPARED/recall/KEY, which a single process makes, and in RUN/recall.
"""

import hashlib
import json
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from equipoise.common.atomic import atomic_dir
from equipoise.common.errors import UserError
from equipoise.common.progress import ProgressBar
from equipoise.configs.objectives import RecallConfig
from equipoise.configs.schema import RunConfig
from equipoise.data.slate_set import SlateSet
from equipoise.data.token_cache import SplitTokens, TokenCache
from equipoise.modeling.recall_sources import FILE, RecallSources
from equipoise.train.checkpoint_files import checkpoints
from equipoise.train.recall_fit import Purchases, fit_sources, past
from equipoise.train.thing_vectors import base_identity

log = logging.getLogger(__name__)
FOLDER = "recall"


@dataclass(frozen=True)
class SourceScores:
    """What the score of every item holds beside the vectors, as `RecallDraws` asks for it."""

    sources: RecallSources

    def __call__(self, tokens: SplitTokens, row: int) -> np.ndarray:
        """float32 (I,), for the shopper of a slate."""
        return self.sources.scores(*past(tokens, row))


def run_sources(run: Path) -> RecallSources | None:
    """The sources of a run folder; None where it has none.

    Raises:
        UserError: they cannot be read.
    """
    return RecallSources.read(run / FOLDER) if (run / FOLDER / FILE).is_file() else None


def as_begun(config: RunConfig) -> RunConfig:
    """The settings with which a run goes on: without sources of recall where it has learned without them.

    Raises:
        UserError: it has learned with sources, and the settings leave them out.
    """
    options = config.objectives.recall
    if options is None or not checkpoints(config.output):
        return config
    if run_sources(config.output) is not None:
        if not options.sources:
            raise UserError(
                f"{config.output} has learned beside sources of recall: set objectives.recall.sources=true, or start "
                "anew with --overwrite"
            )
        return config
    if not options.sources:
        return config
    log.info(f"{config.output} has no sources of recall: it goes on without them")
    recall = options.model_copy(update={"sources": False})
    return config.model_copy(update={"objectives": config.objectives.model_copy(update={"recall": recall})})


def find_sources(config: RunConfig, tokens: TokenCache) -> RecallSources | None:
    """The sources of a job, before its processes meet; a single process fits those that are missing.

    None where the run has no objective of recall, or its `sources` are false.

    Raises:
        UserError: they are missing and the job has several processes, or cannot be fitted.
    """
    options = config.objectives.recall
    if options is None or not options.sources:
        return None
    folder = config.data.folder / FOLDER / _key(config, options, tokens)
    if not (folder / FILE).is_file():
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError(
                f"{config.data.folder} holds no sources of recall: run `equipoise tokenize CONFIG` with the same "
                "settings, then launch again"
            )
        with atomic_dir(folder) as building, ProgressBar("sources of recall") as bar:
            fit_sources(config, tokens, bar.stage).write(building)
    return RecallSources.read(folder)


def _key(config: RunConfig, options: RecallConfig, tokens: TokenCache) -> str:
    fitted = [options.half_life_days, options.neighbours, options.fit_share, options.dimension]
    identity = [1, base_identity(config.backbone, config.seed), tokens.folder.name, *fitted]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]


def early_sources(config: RunConfig, slates: SlateSet, sources: RecallSources) -> tuple[RecallSources, np.ndarray]:
    """The sources as the late training requests may read them, and these as numbers of the requests with a click.

    Args:
        config: of the run.
        slates: the train split.
        sources: fitted.
    """
    options = config.objectives.recall
    assert options is not None, "there are sources"
    purchases = Purchases.of(slates, options.fit_share)
    return replace(sources, counts=purchases.counts(options, early=True)), np.flatnonzero(purchases.late)
