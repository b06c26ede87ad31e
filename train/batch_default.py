"""The size of a micro-batch where `train.max_tokens` is `auto`: small for small data, for an epoch of many steps."""

import logging
import os

from equipoise.configs.schema import MOST_AUTO_TOKENS, RunConfig
from equipoise.data.token_cache import TokenCache

log = logging.getLogger(__name__)

STEPS = 50
"""Optimizer steps that an epoch of small data shall have."""
LEAST_SLATES = 4
"""Slates of a process and micro-batch on average: fewer give gradients of mostly noise."""
ROUND = 50


def settle_batch(config: RunConfig, tokens: TokenCache, begun: RunConfig | None = None) -> RunConfig:
    """A configuration without `auto` in `train.max_tokens`, after saying what it is.

    Args:
        config: of the run.
        tokens: of its prepared data.
        begun: what the run began with, which `auto` follows where it goes on; None asks the data.
    """
    train = config.train
    if train.max_tokens != "auto":
        return config
    if begun is not None and begun.train.max_tokens is not None:
        return _with_budget(config, begun.train.max_tokens)
    # Whatever the run's own seed, so that runs of several seeds differ in nothing else.
    costs = tokens.split("train").costs(negatives=train.negatives)
    budget = auto_budget(int(costs.sum()), len(costs), int(os.environ.get("WORLD_SIZE", "1")) * train.accumulate)
    log.info(
        f"train.max_tokens: auto is {budget:,} for {len(costs):,} train slates of {costs.mean():.0f} tokens; set it or "
        "train.batch_size, for another batch"
    )
    return _with_budget(config, budget)


def auto_budget(total: int, slates: int, shares: int) -> int:
    """Tokens of a process and micro-batch.

    Args:
        total: tokens of an epoch.
        slates: of the train split, at least 1.
        shares: micro-batches of an optimizer step on all processes.
    """
    wanted = max(total / (STEPS * shares), LEAST_SLATES * total / slates)
    return min(MOST_AUTO_TOKENS, -(-int(wanted) // ROUND) * ROUND)


def slates_of_batch(slates: int, most: int) -> int:
    """Slates of a batch of the heads' own phase: `most`, fewer of a small train split, down to LEAST_SLATES."""
    return min(most, max(LEAST_SLATES, slates // STEPS))


def _with_budget(config: RunConfig, budget: int | str) -> RunConfig:
    return config.model_copy(update={"train": config.train.model_copy(update={"max_tokens": budget})})
