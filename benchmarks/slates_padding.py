"""How much of what the linear layers compute in training is padding, on real data."""

from configs.schema import RunConfig
from train.assemble import open_data, train_batches
from train.objectives.registry import build_objectives
from train.world import World

BATCHES = 50
"""Read from the start of the first epoch, whose order is a function of the seed."""


def padding_share(config: RunConfig, batches: int = BATCHES) -> float:
    """1 − real tokens / token slots, over the first training batches of a single process.

    A slot is a place in a batch's rows; each passes the linear layers of the trunk. A prefix that a slate repeats
    in a further row counts as real.

    Raises:
        UserError: the prepared folder is missing or does not fit the config.
    """
    data = open_data(config, "train", build_objectives(config.objectives))
    rows = train_batches(config, data, World())
    real = slots = 0
    for number in range(batches):
        segments = rows[number].segment_ids
        real += int((segments >= 0).sum())
        slots += segments.numel()
    return 1 - real / slots
