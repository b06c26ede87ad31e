"""What each GPU holds under DDP and the ZeRO stages, from an estimate, and which cards that fits.

DeepSpeed's own buffers are those of its defaults, which configs/accelerate keeps: gradients are reduced through a
buffer of 5·10⁸ elements, and ZeRO-3 keeps up to 10⁹ gathered elements of the base.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from equipoise.train.memory.estimate import FULL, Estimate

GIB = 2**30
REDUCE_BUCKET = 500_000_000
GATHERED = 1_000_000_000
CONTEXT = GIB * 3 // 4
"""An allowance for the CUDA context and the kernels' workspaces, bytes; not measured here."""
USABLE = 0.97
"""The share of a card's nominal size that its driver leaves."""
CARDS = (24, 40, 80, 141)
PROCESSES = (1, 2, 4, 8)


@dataclass(frozen=True)
class Fit:
    """One row: an engine with a number of processes, and the bytes of each GPU (None: it cannot run so)."""

    engine: str
    processes: int
    total: int | None

    def holds(self, card: int) -> bool:
        """Whether a card of nominally `card` GB holds it."""
        return self.total is not None and self.total <= card * GIB * USABLE


def fits(estimate: Estimate, processes: Sequence[int] = PROCESSES) -> list[Fit]:
    """All engines with all numbers of processes; without DeepSpeed one process is a row of its own."""
    rows = []
    for count in processes:
        rows.append(Fit("one process" if count == 1 else "DDP (ZeRO-0)", count, _replicated(estimate, count)))
    for stage in (1, 2, 3):
        rows += [Fit(f"ZeRO-{stage}", count, _sharded(estimate, stage, count)) for count in processes]
    return rows


def optimizer_bytes(estimate: Estimate) -> int:
    """AdamW's two moments of all trained parameters, on one process."""
    return 2 * FULL * estimate.sizes.trained


def _replicated(estimate: Estimate, processes: int) -> int:
    """Everything on every GPU; DDP reduces gradients in buckets, a copy of them."""
    trained = FULL * estimate.sizes.trained
    buckets = trained if processes > 1 else 0
    step = max(estimate.peak, 2 * trained)  # AdamW computes all updates at once, beside the gradients
    return CONTEXT + estimate.sizes.base_bytes + trained + optimizer_bytes(estimate) + buckets + step


def _sharded(estimate: Estimate, stage: int, processes: int) -> int | None:
    """Under DeepSpeed: a float32 copy of the trained parameters and the moments are cut up from stage 1 on, gradients
    from stage 2 on, the base in stage 3 (where a packed one cannot be cut)."""
    sizes = estimate.sizes
    width = 2 if estimate.bf16 else FULL
    owned = (FULL * sizes.trained + optimizer_bytes(estimate)) // processes
    trained = width * sizes.trained
    step = estimate.together_peak if stage == 3 else estimate.cast_peak
    kept = FULL * sizes.trained // (processes if stage >= 2 else 1)  # reduced gradients, float32, until the step
    bucket = REDUCE_BUCKET * (FULL if stage == 1 else width)
    if stage < 3:
        return CONTEXT + sizes.cast_base_bytes + trained + owned + kept + bucket + step
    if sizes.quantized:
        return None
    gathered = min(sizes.base, GATHERED) * width if processes > 1 else 0
    # LoRA matrices are below DeepSpeed's persistence threshold, so every process keeps them whole.
    return CONTEXT + sizes.cast_base_bytes // processes + gathered + trained + owned + kept + bucket + step
