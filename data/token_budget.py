"""Batches within a budget of tokens: `token_groups` for scoring, and of training the plan of an epoch.

In that plan no process's part of a global micro-batch exceeds the budget. Like `data.sampling.BatchOrder`, it is a pure
function of seed and position. How many micro-batches an epoch has depends on what its slates sample, so micro-batch
`number` is found through the counts of the epochs before its own.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from equipoise.common.errors import UserError

KEPT_PLANS = 2


def token_groups(sizes: Sequence[int] | np.ndarray, budget: int) -> list[list[int]]:
    """Group slates into batches for scoring, in evaluation, from files and in the server.

    Slates of similar length come together, so that rows are padded little and processes that take batches alternately
    work alike; the batch that needs most memory comes first.

    Args:
        sizes: tokens of each slate.
        budget: most tokens of a group; a slate of more is alone.

    Returns:
        indices into `sizes`, every one once, the longest slates first.
    """
    groups: list[list[int]] = []
    filled = 0
    for index in np.argsort(-np.asarray(sizes, dtype=np.int64), kind="stable").tolist():
        if not groups or filled + sizes[index] > budget:
            groups.append([])
            filled = 0
        groups[-1].append(index)
        filled += int(sizes[index])
    return groups


def balanced_split(costs: Sequence[int], processes: int, budget: int) -> list[list[int]] | None:
    """Shares of the processes, as positions in `costs`: longest first, each to the process with the least so far.

    Graham's LPT rule (1969); ties go to the first process, equal costs in their order. None where a process would
    exceed `budget` with more than one slate.
    """
    shares: list[list[int]] = [[] for _ in range(processes)]
    loads = [(0, process) for process in range(processes)]
    for position in sorted(range(len(costs)), key=lambda position: -costs[position]):
        load, process = loads[0]
        load += costs[position]
        if load > budget and shares[process]:
            return None
        shares[process].append(position)
        heapq.heapreplace(loads, (load, process))
    return shares


@dataclass(frozen=True)
class EpochPlan:
    """The slates of an epoch, dealt out.

    Attributes:
        rows: int64, the slates, micro-batch after micro-batch, in each of them process after process.
        starts: int64 (micro-batches · processes + 1,), where each share begins in `rows`.
        dropped: slates at the end that were fewer than processes.
        oversize: slates of more tokens than the budget, each alone in its share.
        imbalance: the fullest process's tokens over the mean of the processes, averaged over the micro-batches.
    """

    rows: np.ndarray
    starts: np.ndarray
    dropped: int
    oversize: int
    imbalance: float


def plan_epoch(order: np.ndarray, costs: np.ndarray, processes: int, budget: int) -> EpochPlan:
    """Cut slates into global micro-batches, each as many of the next slates as can be split within the budget.

    Args:
        order: int64 (S,), the slates in the order of the epoch.
        costs: int64 (S,), positive, the tokens of each slate, by its number.
        processes: each gets at least one slate of every micro-batch.
        budget: most tokens of a process and micro-batch.
    """
    ordered = costs[order]
    filled = np.concatenate([[0], np.cumsum(np.minimum(ordered, budget))])
    parts: list[np.ndarray] = []
    sizes: list[int] = []
    uneven: list[float] = []
    at, size = 0, len(order)
    while size - at >= processes:
        # No split can hold more than this; with one slate each, any split will do.
        stop = int(np.searchsorted(filled, filled[at] + processes * budget, side="right")) - 1
        stop = max(stop, at + processes)
        while (shares := balanced_split(ordered[at:stop].tolist(), processes, budget)) is None:
            stop -= 1
        parts += [order[at + np.array(sorted(share))] for share in shares]
        sizes += [len(share) for share in shares]
        loads = [int(ordered[at + np.array(share)].sum()) for share in shares]
        uneven.append(max(loads) * processes / sum(loads))
        at = stop
    return EpochPlan(
        rows=np.concatenate(parts) if parts else np.empty(0, dtype=np.int64),
        starts=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        dropped=size - at,
        oversize=int((costs > budget).sum()),
        imbalance=float(np.mean(uneven)) if uneven else 1.0,
    )


class BudgetOrder:
    """Which slates this process takes of which global micro-batch, so that `max_tokens` hold on every process.

    Args:
        costs: epoch → tokens of every slate as that epoch samples it, int64 (S,).
        max_tokens: per process and micro-batch; a slate of more is alone in its share.
        processes, rank: of the job.
        seed: of the run.
        parts: the processes that the run began with; None: those of the job. They settle the plan: fewer processes take
            several shares each, more divide the slates of a micro-batch among themselves.

    Raises:
        UserError: the split has fewer slates than the job has processes.
    """

    def __init__(
        self,
        costs: Callable[[int], np.ndarray],
        max_tokens: int,
        processes: int,
        rank: int,
        seed: int,
        parts: int | None = None,
    ) -> None:
        self.costs, self.max_tokens = costs, max_tokens
        self.processes, self.rank, self.seed = processes, rank, seed
        self.parts = parts or processes
        self._plans: dict[int, EpochPlan] = {}
        self._ends: list[int] = []  # micro-batches up to the end of each epoch planned so far
        if not self.count(0):
            raise UserError(
                f"the train split has fewer slates than the {self.parts} processes that each need one: launch fewer "
                "processes or prepare more data"
            )

    def plan(self, epoch: int) -> EpochPlan:
        """The plan of an epoch, the same on every process."""
        if epoch not in self._plans:
            costs = self.costs(epoch)
            order = np.random.default_rng([self.seed, epoch]).permutation(len(costs))
            while len(self._plans) >= KEPT_PLANS:
                del self._plans[next(iter(self._plans))]
            self._plans[epoch] = plan_epoch(order, costs, self.parts, self.max_tokens)
        return self._plans[epoch]

    def count(self, epoch: int) -> int:
        """How many global micro-batches an epoch has."""
        while len(self._ends) <= epoch:
            planned = self.plan(len(self._ends))
            before = self._ends[-1] if self._ends else 0
            self._ends.append(before + (len(planned.starts) - 1) // self.parts)
        return self._ends[epoch] - (self._ends[epoch - 1] if epoch else 0)

    def _locate(self, number: int) -> tuple[int, int]:
        """The epoch of a micro-batch, and its number there."""
        epoch = 0
        while number >= (count := self.count(epoch)):
            number, epoch = number - count, epoch + 1
        return epoch, number

    def steps(self, epochs: float, accumulate: int) -> int:
        """How many optimizer steps of `accumulate` micro-batches `epochs` passes over the split make, at least 1."""
        full = int(epochs)
        batches = sum(self.count(epoch) for epoch in range(full))
        if epochs > full:
            batches += int((epochs - full) * self.count(full))
        return max(1, batches // accumulate)

    def epoch_at(self, number: int) -> float:
        """How many passes over the split `number` micro-batches are."""
        epoch = 0
        # The end of an epoch is not yet a position in the next one, which may never be planned.
        while number > (count := self.count(epoch)):
            number, epoch = number - count, epoch + 1
        return epoch + number / count

    def batch(self, number: int) -> tuple[int, np.ndarray]:
        """The epoch and this process's slates (int64) of global micro-batch `number`, counted over all epochs."""
        epoch, index = self._locate(number)
        plan = self.plan(epoch)
        shares = np.array_split(np.arange(index * self.parts, (index + 1) * self.parts), self.processes)
        if self.processes <= self.parts:
            own = shares[self.rank]
            return epoch, plan.rows[plan.starts[own[0]] : plan.starts[own[-1] + 1]]
        rows = plan.rows[plan.starts[index * self.parts] : plan.starts[(index + 1) * self.parts]]
        if len(rows) < self.processes:
            raise UserError(
                f"a batch of the run, which began with {self.parts} processes, has {len(rows)} slates: too few for "
                f"{self.processes} processes, launch at most {self.parts}"
            )
        return epoch, np.array_split(rows, self.processes)[self.rank]
