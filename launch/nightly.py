"""`equipoise nightly CONFIG --day D`: a training every night, and the switch of what is served. docs/nightly.md."""

import logging
import os
import subprocess
import sys
from datetime import date
from pathlib import Path

from equipoise.common.errors import UserError
from equipoise.common.process import INTERRUPTED
from equipoise.configs.load import save_config
from equipoise.configs.schema import RunConfig
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
    return exit_code(decision)


def exit_code(decision: Decision) -> int:
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
    """Trains in the processes of `equipoise launch --accelerate NAME`."""

    def train(config: RunConfig, resume: bool, overwrite: bool) -> bool:
        path = config.output.with_name(f"{config.output.name}.yaml")
        save_config(config, path)
        write_tokens(config)  # and vectors and priors, which several processes do not make
        flags = [*(["--resume"] if resume else []), *(["--overwrite"] if overwrite else [])]
        command = [sys.executable, "-m", "equipoise.launch.cli", "launch", "--accelerate", accelerate, "train"]
        code = subprocess.run([*command, str(path), *flags], env=os.environ, check=False).returncode
        if code not in (0, INTERRUPTED):
            raise UserError(f"the training of {config.output} ended with exit code {code}: its messages say why")
        return code == 0

    return train
