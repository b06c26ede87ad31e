"""The MLflow run of a training: where its store is, its identity in the run folder, and the adapters at the end."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.schema import RunConfig
from configs.whole_file import whole_file

if TYPE_CHECKING:
    from accelerate import Accelerator

FILE_NAME = "mlflow.json"
STORE = "mlruns"
"""Folder beside the run folders, shared by them, where MLFLOW_TRACKING_URI names nothing else."""

QUICK = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""A lost server holds a training up for a minute once, not for ten, and is asked for nothing else."""


def init_arguments(config: RunConfig, run: Path, resumed: bool) -> dict[str, Any]:
    """Arguments of Accelerate's MLflow tracker; a resumed training goes on in the same MLflow run.

    Without MLFLOW_TRACKING_URI the numbers go to files, which MLflow wants to be told twice, and never to a network.
    """
    for name, value in QUICK.items():
        os.environ.setdefault(name, value)
    if "MLFLOW_TRACKING_URI" not in os.environ:
        os.environ["MLFLOW_TRACKING_URI"] = (run.resolve().parent / STORE).as_uri()
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    tags = {"group": config.wandb.group, "folder": str(run)}
    arguments: dict[str, Any] = {"run_name": config.name, "tags": {key: v for key, v in tags.items() if v}}
    known = read_identity(run)
    return arguments | {"run_id": known} if resumed and known is not None else arguments


def read_identity(run: Path) -> str | None:
    """The id that `begin` kept in a run folder, or None."""
    try:
        return json.loads((run / FILE_NAME).read_text("utf-8"))["id"]
    except (OSError, ValueError, KeyError):
        return None


def begin(accelerator: "Accelerator", settings: dict[str, Any], run: Path) -> None:
    """Tell MLflow the flat settings and keep the run's identity; a resumed run is told already.

    MLflow lets no setting change, so those of the first start stand.
    """
    tracker: Any = accelerator.get_tracker("mlflow")
    number = tracker.tracker.info.run_id
    if number != read_identity(run):
        tracker.store_init_configuration(settings)
    with whole_file(run / FILE_NAME) as partial:
        partial.write_text(json.dumps({"id": number, "store": os.environ["MLFLOW_TRACKING_URI"]}, indent=2))


def end(accelerator: "Accelerator", summary: dict[str, Any], run: Path) -> None:
    """Hand over the numbers of the summary and, of a finished run, the adapters."""
    tracker: Any = accelerator.get_tracker("mlflow")
    numbers = {key: value for key, value in summary.items() if type(value) in (int, float)}
    tracker.log({f"summary/{key}": value for key, value in numbers.items()}, step=summary.get("steps"))
    if (run / "adapters").is_dir() and summary.get("finished"):
        tracker.log_artifacts(str(run / "adapters"), "adapters")
