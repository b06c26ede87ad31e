"""Which slates make up which batch, and which unclicked candidates a training slate keeps.

Both are functions of the seed and the position alone, never of a hidden state: resuming needs only the step, and one
process with a batch of 2B sees what two processes with B see together. Candidates are drawn by a hash of their
position, so that a whole split can be sampled at once (`equipoise.data.token_budget` plans with it) or one slate alone.
"""

import numpy as np

from equipoise.common.errors import UserError


class BatchOrder:
    """The seeded order of slates, cut into global micro-batches; a new permutation each epoch, the rest dropped.

    Args:
        slates: number of slates in the split.
        batch_size: slates per process and micro-batch, of the processes that the run began with.
        processes, rank: of the job.
        seed: of the run.
        parts: the processes that the run began with; None: those of the job. They settle the global micro-batch.

    Raises:
        UserError: the split does not fill one global micro-batch, or that has fewer slates than there are processes.
    """

    def __init__(
        self, slates: int, batch_size: int, processes: int, rank: int, seed: int, parts: int | None = None
    ) -> None:
        self.slates, self.batch_size, self.processes, self.rank, self.seed = slates, batch_size, processes, rank, seed
        self.parts = parts or processes
        self.whole = batch_size * self.parts
        self.per_epoch = slates // self.whole
        if self.per_epoch == 0:
            raise UserError(
                f"train.batch_size: {batch_size} slates on each of {self.parts} processes need "
                f"{self.whole}, but the train split has {slates}: lower train.batch_size or the processes"
            )
        if self.whole < processes:
            raise UserError(
                f"the run's batches of {self.whole} slates (train.batch_size × the processes that it began with) are "
                f"too small for {processes} processes: launch at most {self.whole}"
            )
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)

    def steps(self, epochs: float, accumulate: int) -> int:
        """How many optimizer steps of `accumulate` micro-batches `epochs` passes over the split make, at least 1."""
        return max(1, int(epochs * (self.per_epoch // accumulate)))

    def epoch_at(self, number: int) -> float:
        """How many passes over the split `number` micro-batches are."""
        return number / self.per_epoch

    def batch(self, number: int) -> tuple[int, np.ndarray]:
        """The epoch and this process's slates (int64) of global micro-batch `number`, counted over all epochs."""
        epoch, position = divmod(number, self.per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self.seed, epoch]).permutation(self.slates)
        rows = self._order[position * self.whole : (position + 1) * self.whole]
        return epoch, np.array_split(rows, self.processes)[self.rank]


def _mixed(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014), on uint64: each bit of x moves half of the result."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def sample_keys(seed: int, epoch: int, rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """A number for each candidate, uint64 of the common shape: a hash of seed, epoch, row and position in the slate.

    Equal arguments give equal numbers on every machine, whatever is asked for together.
    """
    key = np.asarray(0, dtype=np.uint64)
    for number in (seed, epoch, rows, positions):
        with np.errstate(over="ignore"):
            counted = (np.asarray(number).astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
            key = np.asarray(_mixed(key ^ counted))
    return key


def keep_sampled(
    click: np.ndarray, first: np.ndarray, rows: np.ndarray, negatives: int | None, seed: int, epoch: int
) -> np.ndarray:
    """Which candidates of some slates a training epoch keeps: the clicked, and `negatives` others by smallest key.

    Args:
        click: (I,) labels, slate after slate.
        first: int64 (S + 1,), where each slate begins in `click`, and where the last one ends.
        rows: int64 (S,), the slates' numbers in their split.
        negatives: how many unclicked candidates of a slate; None keeps all.
        seed, epoch: of the run and the pass over its data.

    Returns:
        bool (I,). What a slate keeps does not depend on which others (at most 2^24) are asked for with it.
    """
    kept = np.ones(len(click), dtype=bool)
    sizes = np.diff(first)
    if negatives is None or not len(sizes) or sizes.max() <= negatives:
        return kept
    owner = np.repeat(np.arange(len(sizes)), sizes)
    unclicked = np.flatnonzero(click == 0)
    owner = owner[unclicked]
    counts = np.bincount(owner, minlength=len(sizes))
    crowded = counts > negatives
    unclicked, owner = unclicked[crowded[owner]], owner[crowded[owner]]
    if not len(unclicked):
        return kept
    keys = sample_keys(seed, epoch, rows[owner], unclicked - first[owner])
    # One sort for all slates: the slate's number above 40 bits of its candidate's key.
    keys = (owner.astype(np.uint64) << np.uint64(40)) | (keys >> np.uint64(24))
    begins = (np.cumsum(counts * crowded) - counts * crowded)[crowded]
    largest = np.zeros(len(sizes), dtype=np.uint64)
    largest[crowded] = np.sort(keys)[begins + negatives - 1]
    stays = keys <= largest[owner]
    for slate in np.flatnonzero(np.bincount(owner[stays], minlength=len(sizes)) > negatives):
        _drop_ties(stays, keys, np.flatnonzero(owner == slate), negatives)
    kept[unclicked[~stays]] = False
    return kept


def _drop_ties(stays: np.ndarray, keys: np.ndarray, slate: np.ndarray, negatives: int) -> None:
    """Of equal keys in one slate, the earlier candidates stay."""
    stays[slate[np.argsort(keys[slate], kind="stable")[negatives:]]] = False


def sample_candidates(
    click: np.ndarray, negatives: int | None, seed: int, epoch: int, row: int
) -> tuple[np.ndarray, float]:
    """Keep every clicked candidate and at most `negatives` of the others of one slate, in their order.

    Returns:
        the kept indices (int64), and the log of the rate at which unclicked candidates were kept. Sampled odds are the
        true odds divided by that rate, so `logit − log_sampling_rate` is the logit that fits the sample (King & Zeng
        2001).
    """
    unclicked = int((click == 0).sum())
    if negatives is None or unclicked <= negatives:
        return np.arange(len(click)), 0.0
    kept = keep_sampled(click, np.array([0, len(click)]), np.array([row]), negatives, seed, epoch)
    return np.flatnonzero(kept), float(np.log(negatives / unclicked))
