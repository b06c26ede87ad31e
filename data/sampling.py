"""Which slates make up which batch, and which unclicked candidates a training slate keeps.

Both are functions of the seed and the place alone, never of a hidden state: resuming needs only the step, and one
process with a batch of 2B sees what two processes with B see together.
"""

import numpy as np

from configs.errors import UserError


class BatchOrder:
    """The seeded order of slates, cut into global micro-batches; a new permutation each epoch, the rest dropped.

    Args:
        slates: number of slates in the split.
        batch_size: slates per process and micro-batch.
        processes, rank: of the job.
        seed: of the run.

    Raises:
        UserError: the split does not fill one global micro-batch.
    """

    def __init__(self, slates: int, batch_size: int, processes: int, rank: int, seed: int) -> None:
        self.slates, self.batch_size, self.processes, self.rank, self.seed = slates, batch_size, processes, rank, seed
        self.per_epoch = slates // (batch_size * processes)
        if self.per_epoch == 0:
            raise UserError(
                f"train.batch_size: {batch_size} slates on each of {processes} processes need "
                f"{batch_size * processes}, but the train split has {slates}: lower train.batch_size or the processes"
            )
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)

    def batch(self, number: int) -> tuple[int, np.ndarray]:
        """The epoch and this process's slates (int64) of global micro-batch `number`, counted over all epochs."""
        epoch, place = divmod(number, self.per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self.seed, epoch]).permutation(self.slates)
        first = (place * self.processes + self.rank) * self.batch_size
        return epoch, self._order[first : first + self.batch_size]


def sample_candidates(click: np.ndarray, negatives: int | None, seed: list[int]) -> tuple[np.ndarray, float]:
    """Keep every clicked candidate and at most `negatives` of the others, in their order.

    Returns:
        the kept indices (int64), and the log of the share of unclicked candidates that were kept. Sampled odds are the
        true odds divided by that share, so `logit − log_keep` is the logit that fits the sample (King & Zeng 2001).
    """
    unclicked = np.flatnonzero(click == 0)
    if negatives is None or len(unclicked) <= negatives:
        return np.arange(len(click)), 0.0
    kept = np.random.default_rng(seed).choice(unclicked, size=negatives, replace=False)
    return np.sort(np.concatenate([np.flatnonzero(click), kept])), float(np.log(negatives / len(unclicked)))
