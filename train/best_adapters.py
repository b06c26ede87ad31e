"""The adapters of a run's best validation, kept beside the last ones: `best/` in the run folder."""

import json
import logging
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equipoise.common.atomic import atomic_write
from equipoise.common.errors import UserError
from equipoise.configs.schema import DEFAULT_SELECT, RunConfig
from equipoise.evaluation.metrics.metric_names import direction
from equipoise.train.sureness import surely_above

if TYPE_CHECKING:
    import torch  # which those who only read what was kept do not wait for

    from equipoise.modeling.adapter_store import AdapterInfo
    from equipoise.train.validation import Validation
    from equipoise.train.world import World

log = logging.getLogger(__name__)

FOLDER, ABOUT, LAST = "best", "best.json", "adapters"
MEASURE = DEFAULT_SELECT
"""What is best unless `train.select` says otherwise: the highest GAUC of pCTR, the earliest of equal ones."""


@dataclass(frozen=True)
class Selection:
    """What makes one validation better than another.

    Attributes:
        weights: measure → weight above 0; one where less is better counts negative in a sum of several.
    """

    weights: Mapping[str, float]

    @staticmethod
    def of(select: str | Mapping[str, float] = MEASURE) -> "Selection":
        """As `train.select` gives it.

        Raises:
            UserError: a measure has no better and worse.
        """
        weights = {select: 1.0} if isinstance(select, str) else dict(select)
        for name in weights:
            if direction(name) == 0:
                raise UserError(f"train.select names '{name}', of which neither more nor less is better: name another")
        return Selection(weights)

    @property
    def name(self) -> str:
        """The measure, or the weighted sum in words."""
        if len(self.weights) == 1:
            return next(iter(self.weights))
        signed = [f"{direction(name) * weight:+g} {name}" for name, weight in self.weights.items()]
        return " ".join(signed).removeprefix("+")

    def value(self, values: Mapping[str, float]) -> float:
        """The number of a validation: the measure as it is, or the weighted sum; NaN where one is undefined."""
        if len(self.weights) == 1:
            return values.get(self.name, math.nan)
        return sum(direction(name) * weight * values.get(name, math.nan) for name, weight in self.weights.items())

    def gain(self, value: float, than: float) -> float:
        """By how much a number of one validation is better than that of another."""
        return than - value if len(self.weights) == 1 and direction(self.name) < 0 else value - than


class BestAdapters:
    """Keeps the adapters of the best validation so far; all processes call it with the same values.

    Args:
        run: the run folder.
        world: of the job.
        selection: what is best.
        surely: a later step is kept only where it is surely better than the start (train/sureness.py), which is good
            already where heads begin as their priors.
    """

    def __init__(self, run: Path, world: "World", selection: Selection | None = None, surely: bool = False) -> None:
        self.run, self.world, self.selection, self.surely = run, world, selection or Selection.of(), surely
        self.known = world.gather(read_best(run))[0]
        self._start: dict[str, Any] | None = (self.known or {}).get("start")

    def forget_after(self, step: int) -> None:
        """Drop what a resumed run will validate again, and what was chosen by another measure."""
        known = self.known
        if known is not None and (known["step"] > step or known["measure"] != self.selection.name):
            self.forget(start=known["measure"] != self.selection.name)

    def forget(self, start: bool = True) -> None:
        """Drop what is kept, and what the start gave too, if asked."""
        self.known = None
        self._start = None if start else self._start
        if self.world.rank == 0:
            shutil.rmtree(self.run / FOLDER, ignore_errors=True)

    def offer(
        self,
        step: int,
        values: Mapping[str, float],
        tensors: Callable[[], Mapping[str, "torch.Tensor"]],
        info: "AdapterInfo",
        found: "Validation | None" = None,
        **more: Any,
    ) -> bool:
        """Keep the adapters of this step if their validation is better than all before; returns whether it was.

        Args:
            step: optimizer steps done.
            values: of the validation; without a finite number of the selection nothing is kept.
            tensors: gives the trained tensors, gathered from all processes; called only if they are kept.
            info: what they belong to.
            found: the validation itself, for what is to be surely better.
            more: what else best.json is to say of them.
        """
        value = self.selection.value(values)
        known = self.known
        if not math.isfinite(value) or (known is not None and self.selection.gain(value, known["value"]) <= 0):
            return False
        if self.surely:
            assert found is not None, "what is to be surely better comes with its validation"
            if not self._surely_better(found):
                log.info(f"{self.selection.name} is not surely better than at the start: by its level, or by chance")
                return False
        self.known = {"measure": self.selection.name, "value": value, "step": step, **more}
        self.known |= {"start": self._start} if self.surely else {}
        from equipoise.modeling.adapter_store import save_adapters

        gathered = tensors()
        if self.world.rank == 0:
            save_adapters(self.run / FOLDER, gathered, info)
            with atomic_write(self.run / FOLDER / ABOUT) as partial:
                partial.write_text(json.dumps(self.known, indent=2))
        return True

    def _surely_better(self, found: "Validation") -> bool:
        """Whether a validation is surely better than the first one, on the same requests; the first itself is taken."""
        left_out = found.at_best_level().without_each_group(self.selection.value)
        now: dict[str, Any] = {"requests": len(set(found.scores["row"].tolist())), "left_out": left_out}
        first = self._start = self._start or now
        if first is now:
            return True
        pairs = zip(left_out, first["left_out"], strict=False)
        return now["requests"] == first["requests"] and surely_above([self.selection.gain(*pair) for pair in pairs])

    def waited(self, step: int, eval_every: int) -> int:
        """Validations since the best one up to `step`, whatever was stopped and resumed between; 0 without a best."""
        return 0 if self.known is None else step // eval_every - self.known["step"] // eval_every


def read_best(run: Path) -> dict[str, Any] | None:
    """Measure, value and step of the best adapters of a run folder; None where none were kept."""
    try:
        return json.loads((run / FOLDER / ABOUT).read_text("utf-8"))
    except (OSError, ValueError):
        return None


def run_adapters(run: Path, config: RunConfig) -> Path:
    """The folder of a finished run's adapters that `evaluate.adapters` names: `best/`, or `adapters/`.

    Raises:
        UserError: the run is unfinished.
    """
    from equipoise.modeling.adapter_store import read_info

    read_info(run / LAST)
    return run / (FOLDER if config.evaluate.adapters == "best" and read_best(run) else LAST)


def unfinished(run: Path) -> str | None:
    """One sentence where a run is unfinished, or its adapters are older than its last checkpoint; else None.

    Args:
        run: the run folder.
    """
    steps = [int(path.name.removeprefix("step-")) for path in (run / "checkpoints").glob("step-*[0-9]")]
    last = max(steps, default=None)
    try:
        summary = json.loads((run / "summary.json").read_text("utf-8"))
        done, finished = int(summary["steps"]), bool(summary["finished"])
    except FileNotFoundError:
        return None if last is None else f"{run} is unfinished: it has a checkpoint of step {last} and no end"
    except (OSError, ValueError, KeyError, TypeError):
        return f"{run / 'summary.json'} cannot be read, so it is unknown whether the run is finished"
    if not finished:
        return f"{run} is unfinished: it was stopped after step {done}, and its adapters are of an earlier end"
    if last is not None and last > done:
        return f"{run} is unfinished: its adapters are of step {done}, its last checkpoint of step {last}"
    return None


def warn_unfinished(run: Path) -> None:
    """Say where the adapters of a run are not those of its last step."""
    sentence = unfinished(run)
    if sentence:
        log.warning(f"{sentence}; go on with `equipoise train {run / 'config.yaml'} --resume`")


def which_adapters(folder: Path) -> str:
    """One line on which adapters `run_adapters` gave."""
    best = read_best(folder.parent)
    if folder.name != FOLDER or best is None:
        return f"adapters: {folder}, the last ones"
    other = "the others: --adapters last"
    return f"adapters: {folder}, of step {best['step']} ({best['measure']} {best['value']:.4f}; {other})"
