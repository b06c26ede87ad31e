"""`equipoise run CONFIG`: from tables to a checked export, in one process that imports everything once."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from equipoise.common.errors import UserError
from equipoise.configs.load import read_run_config
from equipoise.configs.schema import RunConfig
from equipoise.evaluation.evaluate_run import evaluate_run
from equipoise.evaluation.run_page.run_page import report_run
from equipoise.export.check_process import CheckProcess
from equipoise.export.write import export_run, refuse_target
from equipoise.launch import summary
from equipoise.launch.launch_job import config_file
from equipoise.launch.nightly import launched
from equipoise.nightly.night import train_here
from equipoise.train.job import settle
from equipoise.train.list_fit import in_begun_form
from equipoise.train.prepare_run import prepare_data
from equipoise.train.recall_sources import as_begun
from equipoise.train.resume import SILENT, refuse_changed_settings
from equipoise.train.run_folder import has_begun, is_finished, is_torn, refuse_places

log = logging.getLogger(__name__)


def run_all(config: RunConfig, export: Path | None, overwrite: bool, accelerate: str | None) -> bool:
    """Prepare, train, evaluate on test, export and write the report; called again, go on with what is left.

    Args:
        config: of the run.
        export: folder to write; None is exports/NAME, with the name of the run.
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
    run, out = config.output, export or Path("exports") / config.name
    goes_on = has_begun(run) and not overwrite
    refuse_places(config)
    refuse_target(run, out, overwrite or goes_on)
    if accelerate is not None:
        config_file(accelerate)
    seconds: dict[str, float] = {}
    if not goes_on:
        with _timed(seconds, "preparing"):
            prepare_data(config)
    if goes_on and is_finished(run):
        _refuse_changed(config)
        log.info(f"{run} is trained: --overwrite trains it anew")
    else:
        train = train_here if accelerate is None else launched(accelerate)
        with _timed(seconds, "training"):
            if not train(config, goes_on, overwrite or is_torn(run)):
                return False
    with CheckProcess((run / "priors").is_dir()) as check:  # it imports what it needs during the evaluation
        with _timed(seconds, "evaluating"):
            evaluate_run(run)
        with _timed(seconds, "exporting"):
            export_run(run, out, overwrite=overwrite or goes_on, check=check)
    report_run(run)
    summary.main(run, out)
    log.info(", ".join(f"{name} {taken:.1f} s" for name, taken in seconds.items()))
    return True


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    seconds[name] = time.monotonic() - began


def _refuse_changed(config: RunConfig) -> None:
    """Refuse other settings than those that a finished run was trained with."""
    begun = read_run_config(config.output)
    settled, _ = settle(config, True, begun)
    refuse_changed_settings(in_begun_form(as_begun(begun)), settled, config.output, may_change=SILENT)
