"""A run folder: one training at a time holds it, and nothing in it changes before everything is checked.

What is replaced is moved aside first, comes back if the new run does not begin, and is deleted last.
"""

import json
import logging
import shutil
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import IO

from equipoise.common.atomic import refuse_unwritable
from equipoise.common.errors import UserError
from equipoise.common.file_lock import Held, hold
from equipoise.configs.schema import RunConfig
from equipoise.train.checkpoint_files import checkpoints
from equipoise.train.world import World

log = logging.getLogger(__name__)

MARKER = ".equipoise-run"
LOCK = ".lock"
PROOFS = ("data.json", "environment.json", "metrics.jsonl", "checkpoints", "adapters", "job.json")
"""What a run of before, which has no marker, holds beside config.yaml."""
OWN = (
    *(MARKER, LOCK, "config.yaml", "inputs.json", "start.json", *PROOFS, "summary.json"),
    *("best", "average", "priors", "recall"),
    *("calibration.json", "lists.json", "conflicts.json", "balance.*", "operating_point.json", "front.*"),
    *("report.html", "evaluation_*.json", "examples_*.json", "scores_*.parquet", "newcomers_*.json", "baselines"),
    "exported.json",
    *("wandb", "wandb.json", "mlflow.json", "mlruns", "job.*", "*.log", ".*.partial", "*.tmp-*", "__pycache__"),
)
"""Names in a run folder that a training or a later command writes."""


def refuse_places(config: RunConfig) -> None:
    """Refuse an output that holds, or lies in, what a run reads.

    Raises:
        UserError: names both.
    """
    output = config.output.resolve()
    inputs = {"data.folder": config.data.folder, "backbone.path": Path(config.backbone.path)}
    if config.data.tables is not None:
        local = {name: file for name, file in config.data.tables.files.items() if file.path and not file.is_remote}
        inputs |= {f"data.tables.{name}": Path(file.path) for name, file in local.items() if file.path}
    for name, path in inputs.items():
        if name == "data.folder" and output.is_relative_to(path.resolve()):
            raise UserError(f"output: {config.output} lies in data.folder, {path}: set another output")
        if (path.exists() or name == "data.folder") and path.resolve().is_relative_to(output):
            raise UserError(f"output: {config.output} holds {name}, {path}: set a folder that is the run's alone")
    for name, path in {"the working folder": Path.cwd(), "the home folder": Path.home()}.items():
        if path.resolve().is_relative_to(output):
            raise UserError(f"output: {config.output} holds {name}: set a folder that is the run's alone")


def is_finished(run: Path) -> bool:
    """Whether a run folder's training has come to its end."""
    try:
        return bool(json.loads((run / "summary.json").read_text("utf-8"))["finished"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def has_begun(run: Path) -> bool:
    """Whether a run folder holds what a training can go on from, if only its settings."""
    return (run / "config.yaml").is_file()


def is_torn(run: Path) -> bool:
    """Whether a training was killed between claiming its folder and writing its settings: nothing is in it yet."""
    return not has_begun(run) and (run / MARKER).is_file()


class RunFolder:
    """The folder of one run; all processes of a job call each method, the first one acts, all learn of a refusal.

    Args:
        run: the folder.
        world: of the job.
        trackers: names of folders that trackers make in it.
    """

    def __init__(self, run: Path, world: World, trackers: Iterable[str] = ()) -> None:
        self.run, self.world = run, world
        self.own = (*OWN, *trackers)
        self.aside = run.with_name(f".{run.name}.replaced")
        self._lock: IO[str] | None = None
        self._made = self._began = False

    def check(self, resume: bool, overwrite: bool) -> None:
        """Refuse a folder that cannot be used as asked; changes nothing.

        Raises:
            UserError: it holds another run, none, or foreign files, or another training is writing to it.
        """
        self._all_or_none(lambda: self._check(resume, overwrite))

    def claim(self, overwrite: bool, write: Callable[[], None]) -> None:
        """Take the folder: hold its lock, move a run that is replaced aside, and `write` what a run begins with.

        Raises:
            UserError: another training holds it, or it cannot be written.
        """
        self._all_or_none(lambda: self._claim(overwrite, write))

    def begin(self) -> None:
        """The new run has done its first step: what it replaces can go."""
        if not self._began and self.world.rank == 0:
            shutil.rmtree(self.aside, ignore_errors=True)
        self._began = True

    def give_back(self) -> None:
        """After a failure: where no step was done, what the new run has made goes, and what it replaced comes back."""
        if self._began or self.world.rank or self._lock is None:
            return
        if self.aside.exists():
            shutil.rmtree(self.run, ignore_errors=True)
            self.aside.rename(self.run)
        elif self._made:
            shutil.rmtree(self.run, ignore_errors=True)

    def release(self) -> None:
        """Let the next training have the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _all_or_none(self, act: Callable[[], None]) -> None:
        refusal = None
        if self.world.rank == 0:
            try:
                act()
            except UserError as error:
                refusal = str(error)
            except OSError as error:
                reason = error.strerror or str(error)
                refusal = f"output: {error.filename or self.run} cannot be written ({reason}): set another output"
        refusal = self.world.gather(refusal)[0]
        if refusal:
            raise UserError(refusal)

    def _check(self, resume: bool, overwrite: bool) -> None:
        run = self.run
        if resume and overwrite:
            raise UserError("--resume and --overwrite exclude each other: drop one of them")
        if run.exists() and not run.is_dir():
            raise UserError(f"output: {run} is a file: set another output")
        refuse_unwritable(run, run, "output")
        held = (run / "config.yaml").exists() or (run / MARKER).exists()
        if held and not (resume or overwrite):
            raise UserError(f"{run} already holds a run: add --resume or --overwrite, or set another output")
        if resume and not (run / "config.yaml").is_file():
            raise UserError(f"{run} holds no run to resume: drop --resume or correct output")
        if resume and is_finished(run) and not checkpoints(run):
            raise UserError(
                f"{run} is finished and has no checkpoint to go on from: evaluate it, or start anew with --overwrite"
            )
        if held and overwrite:
            self._refuse_foreign()
        if (run / LOCK).exists():
            with self._locked(run / LOCK):
                pass

    def _refuse_foreign(self) -> None:
        names = sorted(path.name for path in self.run.iterdir())
        if MARKER not in names and not set(PROOFS) & set(names):
            raise UserError(
                f"{self.run} holds a config.yaml and nothing else of a run, so it is not replaced: set another output"
            )
        foreign = [name for name in names if not any(fnmatch(name, pattern) for pattern in self.own)]
        if foreign:
            raise UserError(
                f"{self.run} holds what no run writes ({', '.join(foreign[:3])}), which --overwrite would delete: move "
                "it away, or set another output"
            )

    def _claim(self, overwrite: bool, write: Callable[[], None]) -> None:
        run = self.run
        held = (run / "config.yaml").exists() or (run / MARKER).exists()
        self._made = not run.exists()
        run.mkdir(parents=True, exist_ok=True)
        self._lock = self._locked(run / LOCK)
        try:
            if overwrite and held:
                self._move_aside()
            (run / MARKER).write_text(json.dumps({"kind": "run", "schema_version": 1}) + "\n", "utf-8")
            write()
        except BaseException:
            self.give_back()
            raise

    def _move_aside(self) -> None:
        run = self.run
        if self.aside.exists():  # a replacement of it was killed before its first step: what is in `run` is nothing
            shutil.rmtree(run)
        else:
            run.rename(self.aside)
        run.mkdir()
        former, self._lock = self._lock, self._locked(run / LOCK)
        assert former is not None, "the run that is moved aside is held"
        former.close()

    def _locked(self, path: Path) -> IO[str]:
        """The lock file, opened and held until it is closed; a process that dies lets go of it."""
        try:
            return hold(path)
        except Held as error:
            raise UserError(
                f"{self.run} is being trained by {error}: wait until it ends or stop it, or set another output"
            ) from error
