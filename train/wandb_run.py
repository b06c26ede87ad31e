"""The W&B run of a training: its identity, kept in the run folder, and what only W&B takes beside the numbers."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.schema import RunConfig
from configs.whole_file import whole_file

if TYPE_CHECKING:
    from accelerate import Accelerator  # a second, which reading W&B's files does not wait for

FILE_NAME = "wandb.json"
STEP = "optimizer_step"
"""The axis of all curves: W&B's own step counts calls."""
ENVIRONMENT = "environment"
"""Key of the config, beside the settings."""
EVALUATION = "evaluation"
"""Key of the summary: split → report."""


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


def begin(accelerator: "Accelerator", config: RunConfig, environment: dict[str, Any], run: Path) -> None:
    """Tell W&B the nested config, the state of the code and the step axis, and keep the run's identity."""
    wandb_run: Any = accelerator.get_tracker("wandb", unwrap=True)
    wandb_run.config.update({**config.model_dump(mode="json"), ENVIRONMENT: environment}, allow_val_change=True)
    wandb_run.define_metric(STEP)
    wandb_run.define_metric("*", step_metric=STEP)
    identity = {"id": wandb_run.id, "project": config.wandb.project, "entity": config.wandb.entity}
    with whole_file(run / FILE_NAME) as partial:
        partial.write_text(json.dumps({**identity, "mode": config.wandb.mode, "folder": _folder(wandb_run)}, indent=2))


def end(accelerator: "Accelerator", config: RunConfig, summary: dict[str, Any], run: Path) -> str | None:
    """Hand over the summary and the adapters; returns how an offline run is sent later, None for others."""
    import wandb

    wandb_run: Any = accelerator.get_tracker("wandb", unwrap=True)
    wandb_run.summary.update(summary)
    if (run / "adapters").is_dir() and summary.get("finished"):
        artifact = wandb.Artifact(f"{config.name}-adapters", type="adapters", metadata=summary)
        artifact.add_dir(str(run / "adapters"))
        wandb_run.log_artifact(artifact, aliases=["latest"])
    return f"wandb sync {_folder(wandb_run)}" if config.wandb.mode == "offline" else None


def tell_evaluation(config: RunConfig, run: Path, split: str, report: Mapping[str, Any]) -> str | None:
    """Put an evaluation into the W&B run of its training: the report in the summary, and as an artifact.

    A failure is warned of, for the report lies in the run folder anyway.

    Args:
        config: of the run.
        run: its folder, with the identity that training kept; without one nothing is told.
        split: of the report.
        report: as it was written to evaluation_SPLIT.json.

    Returns:
        how an offline run is sent later, None for others.
    """
    identity = read_identity(run)
    if identity is None or config.wandb.mode == "disabled":
        return None
    import wandb

    try:
        told: Any = wandb.init(
            project=identity["project"],
            entity=identity["entity"],
            id=identity["id"],
            name=config.name,
            mode=config.wandb.mode,
            dir=str(run),
            resume="allow" if config.wandb.mode == "online" else None,  # an offline one is joined when it is sent
        )
        told.summary[EVALUATION] = {split: report}
        artifact = wandb.Artifact(f"{config.name}-evaluation-{split}", type="evaluation")
        artifact.add_file(str(run / f"evaluation_{split}.json"))
        told.log_artifact(artifact, aliases=["latest"])
        folder = _folder(told)
        told.finish()
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        logging.getLogger(__name__).warning("W&B was not told of the evaluation (%s)", reason)
        return None
    return f"wandb sync {folder}" if config.wandb.mode == "offline" else None


def _folder(wandb_run: Any) -> str:
    return str(Path(wandb_run.dir).parent)
