"""`equipoise run CONFIG`: from tables to a checked export, in one process that imports everything once."""

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from equipoise.common.atomic import atomic_write
from equipoise.common.errors import UserError
from equipoise.configs.load import read_run_config
from equipoise.configs.schema import RunConfig
from equipoise.data.manifest import FILE_NAME as MANIFEST
from equipoise.evaluation.evaluate_run import evaluate_run
from equipoise.evaluation.run_page.run_page import report_run
from equipoise.export.check_process import CheckProcess
from equipoise.export.operating_point import POINT_FILE
from equipoise.export.serving_record import FILE_NAME as RECORD
from equipoise.export.write import export_run, refuse_target
from equipoise.launch import summary
from equipoise.launch.launch_job import config_file
from equipoise.launch.nightly import launched
from equipoise.nightly.night import train_here
from equipoise.train.checkpoint_files import checkpoints
from equipoise.train.job import settle
from equipoise.train.list_fit import in_begun_form
from equipoise.train.prepare_run import prepare_data
from equipoise.train.recall_sources import as_begun
from equipoise.train.resume import SAME_NUMBERS, refuse_changed_settings
from equipoise.train.run_folder import MARKER, RunFolder, has_begun, is_finished, refuse_places
from equipoise.train.world import World

log = logging.getLogger(__name__)

NOTE = "exported.json"
"""In a run folder: which export this command has written."""


def run_all(config: RunConfig, export: Path | None, overwrite: bool, accelerate: str | None) -> bool:
    """Prepare, train, evaluate on test, export and write the report; called again, go on with what is left.

    Args:
        config: of the run.
        export: folder to write; None is exports/, with the name of the run folder.
        overwrite: begin anew: replace a run and an export that are there.
        accelerate: Accelerate config whose processes train; None trains in this one.

    Returns:
        Whether it came to its end; false where a signal stopped the training.

    Raises:
        UserError: what the commands of these names raise; places that cannot be written are refused before anything
            is done.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("equipoise run starts processes by itself: run it once, with --accelerate NAME")
    run, out = config.output, export or Path("exports") / config.output.name
    begun = has_begun(run) and not overwrite
    done, resume = begun and is_finished(run), begun and bool(checkpoints(run))
    # Without a checkpoint there is nothing of a former try to go on with.
    replace = overwrite or (not resume and (run / MARKER).is_file())
    _refuse_places(config, out, overwrite)
    if not done:
        RunFolder(run, World(), [config.wandb.project]).check(resume, replace)
    if accelerate is not None:
        config_file(accelerate)
    seconds: dict[str, float] = {}
    if not begun or not (config.data.folder / MANIFEST).is_file():
        with _timed(seconds, "preparing"):
            prepare_data(config)
    if begun and (done or not resume):  # else the training itself compares
        _refuse_changed(config)
    if done:
        log.info(f"{run} is trained: --overwrite trains it anew")
    else:
        train = train_here if accelerate is None else launched(accelerate)
        with _timed(seconds, "training"):
            if not train(config, resume, replace):
                log.info("the same command goes on")
                return False
    _finish(run, out, overwrite, seconds)
    if seconds:
        log.info(", ".join(f"{name} {taken:.1f} s" for name, taken in seconds.items()))
    return True


def _refuse_places(config: RunConfig, out: Path, overwrite: bool) -> None:
    """Refuse an export that cannot be written there, or would replace what is not to be replaced."""
    run, folder = config.output, config.data.folder
    refuse_places(config)
    if out.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{out} lies in data.folder, {folder}: name another folder to export to")
    refuse_target(run, out, overwrite or _is_own(run, out))


def _refuse_changed(config: RunConfig) -> None:
    """Refuse other settings than those that a run was begun with."""
    begun = read_run_config(config.output)
    settled, _ = settle(config, True, begun)
    refuse_changed_settings(in_begun_form(as_begun(begun)), settled, config.output, SAME_NUMBERS)


def _finish(run: Path, out: Path, overwrite: bool, seconds: dict[str, float]) -> None:
    """Evaluate and export a trained run where that is not done yet, and sum it up."""
    own = _is_own(run, out)
    exported = own and _is_newer(out / RECORD, run / "summary.json", run / POINT_FILE)
    # It imports what it needs during the evaluation.
    with nullcontext() if exported else CheckProcess((run / "priors").is_dir()) as check:
        if not _is_newer(run / "evaluation_test.json", run / "summary.json"):
            with _timed(seconds, "evaluating"):
                evaluate_run(run)
        if not exported:
            with _timed(seconds, "exporting"):
                export_run(run, out, overwrite=overwrite or own, check=check)
                with atomic_write(run / NOTE) as partial:
                    partial.write_text(json.dumps(_noted(out)) + "\n", "utf-8")
    report_run(run)
    summary.main(run, out)


def _noted(out: Path) -> dict[str, str]:
    return {"export": str(out.resolve()), "sha256": json.loads((out / RECORD).read_text("utf-8"))["sha256"]}


def _is_own(run: Path, out: Path) -> bool:
    """Whether this command has written the export from this run, so that it may be written again."""
    try:
        return bool(json.loads((run / NOTE).read_text("utf-8")) == _noted(out))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _is_newer(made: Path, *sources: Path) -> bool:
    """Whether a file is there, and was written after all those of its sources that are there."""
    times = [source.stat().st_mtime_ns for source in sources if source.is_file()]
    return made.is_file() and all(made.stat().st_mtime_ns >= each for each in times)


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    seconds[name] = time.monotonic() - began
