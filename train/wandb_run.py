"""The W&B run of a training: its identity, kept in the run folder, and what only W&B takes beside the numbers."""

import json
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from configs.schema import RunConfig
from configs.whole_file import whole_file

FILE_NAME = "wandb.json"
STEP = "optimizer_step"
"""The axis of all curves: W&B's own step counts calls."""


def init_arguments(config: RunConfig, run: Path, resumed: bool) -> dict[str, Any]:
    """Arguments of `wandb.init`; a resumed training goes on in the same W&B run."""
    settings = config.wandb
    arguments: dict[str, Any] = {
        "mode": settings.mode,
        "name": config.name,
        "entity": settings.entity,
        "group": settings.group,
        "job_type": settings.job_type,
        "tags": settings.tags,
        "dir": str(run),
    }
    known = read_identity(run)
    if resumed and known is not None:
        arguments |= {"id": known["id"], "resume": "allow"}
    return arguments


def read_identity(run: Path) -> dict[str, Any] | None:
    """What `begin` kept in a run folder, or None."""
    try:
        return json.loads((run / FILE_NAME).read_text("utf-8"))
    except (OSError, ValueError):
        return None


def begin(accelerator: Accelerator, config: RunConfig, environment: dict[str, Any], run: Path) -> None:
    """Tell W&B the nested config, the state of the code and the step axis, and keep the run's identity."""
    wandb_run: Any = accelerator.get_tracker("wandb", unwrap=True)
    wandb_run.config.update({**config.model_dump(mode="json"), "environment": environment}, allow_val_change=True)
    wandb_run.define_metric(STEP)
    wandb_run.define_metric("*", step_metric=STEP)
    identity = {"id": wandb_run.id, "project": config.wandb.project, "entity": config.wandb.entity}
    with whole_file(run / FILE_NAME) as partial:
        partial.write_text(json.dumps({**identity, "mode": config.wandb.mode, "folder": _folder(wandb_run)}, indent=2))


def end(accelerator: Accelerator, config: RunConfig, summary: dict[str, Any], run: Path) -> str | None:
    """Hand over the summary and the adapters; returns how an offline run is sent later, None for others."""
    import wandb

    wandb_run: Any = accelerator.get_tracker("wandb", unwrap=True)
    wandb_run.summary.update(summary)
    if (run / "adapters").is_dir() and summary.get("finished"):
        artifact = wandb.Artifact(f"{config.name}-adapters", type="adapters", metadata=summary)
        artifact.add_dir(str(run / "adapters"))
        wandb_run.log_artifact(artifact, aliases=["latest"])
    return f"wandb sync {_folder(wandb_run)}" if config.wandb.mode == "offline" else None


def _folder(wandb_run: Any) -> str:
    return str(Path(wandb_run.dir).parent)
