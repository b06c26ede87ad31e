"""What `equipoise sweep` may be told; light, for the command line reads it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from equipoise.common.errors import UserError
from equipoise.common.options import option


@dataclass(frozen=True)
class SweepOptions:
    """What is done with a sweep; several of them exclude each other."""

    parallel: int | None = option(None, "Runs at the same time, not the sweep's number.")
    retry_failed: bool = option(False, "Run failed ones again.", "--retry-failed")
    dry_run: bool = option(False, "Check and print the plan, run nothing.", "--dry-run")
    collect: bool = option(False, "Run nothing: list the states, end the sweep.", "--collect")
    only: int | None = option(None, "Execute this run of the plan, as an array's task does.")
    slurm: bool = option(False, "Write the scripts of one Slurm array.", "--slurm")
    submit: bool = option(False, "Hand them to sbatch too.", "--submit")
    wandb_agent: bool = option(False, "Write the config of a W&B sweep.", "--wandb-agent")
    trial: bool = option(False, "Execute the run that W&B's agent asks for.", "--trial")

    def check(self, arguments: Sequence[str]) -> None:
        """Refuse options that exclude or need each other.

        Raises:
            UserError: names them.
        """
        modes = {
            "--dry-run": self.dry_run, "--collect": self.collect, "--only": self.only is not None,
            "--slurm": self.slurm or self.submit, "--wandb-agent": self.wandb_agent, "--trial": self.trial,
        }  # fmt: skip
        chosen = [name for name, given in modes.items() if given]
        if len(chosen) > 1:
            raise UserError(f"{chosen[0]} and {chosen[1]} exclude each other: drop one of them")
        if arguments and not self.trial:
            raise UserError(f"'{arguments[0]}': settings stand in the sweep's file; KEY=VALUE belongs to --trial alone")
        if self.parallel is not None and self.parallel < 1:
            raise UserError("--parallel must be at least 1: raise it")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError(
                "equipoise sweep launches its runs by itself: start it without a launcher, set `accelerate`"
            )
