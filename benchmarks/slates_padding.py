"""How much of what the linear layers compute in training is padding, on real data."""

import torch

from equipoise.configs.schema import RunConfig
from equipoise.train.assemble import assemble_model, open_data, train_batches
from equipoise.train.objectives.registry import build_objectives
from equipoise.train.token_caches import find_tokens
from equipoise.train.world import World

BATCHES = 50
"""Read from the start of the first epoch, whose order is a function of the seed."""


@torch.inference_mode()
def padding_share(config: RunConfig, batches: int = BATCHES) -> dict[str, float]:
    """1 − real tokens / token places that pass the linear layers, over the first training batches of one process.

    A prefix that a slate repeats in a further row counts as real.

    Returns:
        `linear`, the share as the config's attention computes it (the model counts in a forward), and `rows`,
        what it would be in rows under a mask.

    Raises:
        UserError: the prepared folder is missing or does not fit the config.
    """
    objectives = build_objectives(config.objectives)
    data = open_data(config, "train", objectives, find_tokens(config))
    model, _ = assemble_model(config, objectives, data.slates.manifest)
    order = train_batches(config, data, World())
    real = computed = slots = 0
    for number in range(batches):
        batch = order[number]
        model(**batch.model_inputs())
        computed += model.computed_tokens
        real += int((batch.segment_ids >= 0).sum())
        slots += batch.segment_ids.numel()
    return {"linear": 1 - real / computed, "rows": 1 - real / slots}
