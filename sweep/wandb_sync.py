"""How the offline W&B runs of a sweep are sent: the `wandb sync` lines that its end prints."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from equipoise.sweep.plan import PlannedRun

MOST_LINES = 20
"""A longer sweep gets one line for all."""


def sync_lines(output: Path, plan: Sequence[PlannedRun]) -> list[str]:
    """One `wandb sync` per run, with its training and its evaluations; [] where nothing is left to be sent.

    Args:
        output: the sweep's folder.
        plan: its runs; those whose wandb.mode is not offline are passed over.
    """
    offline = [run for run in plan if run.config.wandb.mode == "offline"]
    unsent = [folders for run in offline if (folders := unsent_folders(run.folder))]
    if len(unsent) > MOST_LINES:
        return [f"wandb sync --skip-synced {shlex.quote(str(output))}/*/wandb/offline-run-*"]
    return [shlex.join(["wandb", "sync", *map(str, folders)]) for folders in unsent]


def unsent_folders(run: Path) -> list[Path]:
    """W&B's offline folders in a run folder, the oldest first, without those that `wandb sync` has marked as sent."""
    folders = sorted((run / "wandb").glob("offline-run-*"))
    return [folder for folder in folders if list(folder.glob("*.wandb")) and not list(folder.glob("*.wandb.synced"))]
