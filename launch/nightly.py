"""`equipoise nightly CONFIG --day D`: a training every night, and the switch of what is served. docs/nightly.md."""

import logging
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

from equipoise.common.errors import UserError
from equipoise.common.process import INTERRUPTED
from equipoise.configs.load import save_config
from equipoise.configs.schema import RunConfig
from equipoise.launch.launch_job import exit_code, signals_handed_on
from equipoise.nightly.night import Decision, Trainer, run_night, train_here
from equipoise.nightly.state import PROMOTED, State, roll_back
from equipoise.train.prepare_run import write_tokens

log = logging.getLogger(__name__)

NOT_PROMOTED = 3
"""Exit code of a night whose model, or whose day, was refused."""


def nightly(
    config: RunConfig, day: str | None, state: Path | None, rollback: bool, again: bool, accelerate: str | None
) -> int:
    """Run a night, or go back to the export before; returns the exit code.

    Raises:
        UserError: an option makes no sense, or what `run_night` and `roll_back` raise.
    """
    if rollback:
        if day is not None or again:
            raise UserError("--rollback goes back to the export before: drop --day and --again")
        left, now = roll_back(State.of(config, state))
        log.info(f"served again: {now}, in place of {left}")
        return 0
    if day is None:
        raise UserError("name the last day whose logs are complete: --day 2026-01-31 (or go back with --rollback)")
    trainer = train_here if accelerate is None else launched(accelerate)
    decision = run_night(config, read_day(day), state, again, trainer)
    return decided_code(decision)


def decided_code(decision: Decision) -> int:
    """0 where tonight's model is served, else NOT_PROMOTED."""
    return 0 if decision.action == PROMOTED else NOT_PROMOTED


def read_day(text: str) -> date:
    """A day as it is written in an option.

    Raises:
        UserError: it is none.
    """
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise UserError(f"--day {text} is no day: write it like 2026-01-31") from error


def launched(accelerate: str) -> Trainer:
    """Trains in the processes of `equipoise launch --accelerate NAME`, to which signals are handed on."""

    def train(config: RunConfig, resume: bool, overwrite: bool) -> bool:
        write_tokens(config)  # and vectors and priors, which several processes do not make
        flags = [*(["--resume"] if resume else []), *(["--overwrite"] if overwrite else [])]
        command = [sys.executable, "-m", "equipoise.launch.cli", "launch", "--accelerate", accelerate, "train"]
        with tempfile.TemporaryDirectory() as folder, signals_handed_on():
            path = Path(folder) / "config.yaml"
            save_config(config, path)
            # In a session of its own, so that Ctrl-C reaches it once, and its processes by it.
            done = subprocess.run([*command, str(path), *flags], check=False, start_new_session=True)
        if done.returncode not in (0, INTERRUPTED):
            code = exit_code(done.returncode)
            raise UserError(f"the training of {config.output} ended with exit code {code}: its messages say why")
        return done.returncode == 0

    return train
