"""The adapters of a run's best validation, kept beside the last ones: `best/` in the run folder."""

import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equipoise.common.atomic import atomic_write

if TYPE_CHECKING:
    import torch  # which those who only read what was kept do not wait for

    from equipoise.modeling.adapter_store import AdapterInfo
    from equipoise.train.world import World

FOLDER, ABOUT = "best", "best.json"
MEASURE = "valid/ctr/gauc"
"""What is best: the highest GAUC of pCTR on `train.eval_requests` of the valid split, the earliest of equal ones."""


class BestAdapters:
    """Keeps the adapters of the best validation so far; all processes call it with the same values.

    Args:
        run: the run folder.
        world: of the job.
    """

    def __init__(self, run: Path, world: "World") -> None:
        self.run, self.world = run, world
        self.known = world.gather(read_best(run))[0]

    def forget_after(self, step: int) -> None:
        """Drop what a resumed run will validate again."""
        if self.known is not None and self.known["step"] > step:
            self.known = None
            if self.world.rank == 0:
                shutil.rmtree(self.run / FOLDER)

    def offer(
        self,
        step: int,
        values: Mapping[str, float],
        tensors: Callable[[], Mapping[str, "torch.Tensor"]],
        info: "AdapterInfo",
    ) -> None:
        """Keep the adapters of this step if their validation is better than all before.

        Args:
            step: optimizer steps done.
            values: of the validation; without a finite MEASURE nothing is kept.
            tensors: gives the trained tensors, gathered from all processes; called only if they are kept.
            info: what they belong to.
        """
        value = values.get(MEASURE, math.nan)
        if not math.isfinite(value) or (self.known is not None and value <= self.known["value"]):
            return
        self.known = {"measure": MEASURE, "value": value, "step": step}
        from equipoise.modeling.adapter_store import save_adapters

        gathered = tensors()
        if self.world.rank == 0:
            save_adapters(self.run / FOLDER, gathered, info)
            with atomic_write(self.run / FOLDER / ABOUT) as partial:
                partial.write_text(json.dumps(self.known, indent=2))


def read_best(run: Path) -> dict[str, Any] | None:
    """Measure, value and step of the best adapters of a run folder; None where none were kept."""
    try:
        return json.loads((run / FOLDER / ABOUT).read_text("utf-8"))
    except (OSError, ValueError):
        return None
