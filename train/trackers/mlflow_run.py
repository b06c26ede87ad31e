"""The MLflow run of a training: where its store is, its identity in the run folder, and what it is told later on."""

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equipoise.common.atomic import atomic_write
from equipoise.configs.schema import RunConfig
from equipoise.evaluation.metrics.metric_names import metrics_of
from equipoise.train.trackers import tracker_run

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
    _be_quick()
    if "MLFLOW_TRACKING_URI" not in os.environ:
        os.environ["MLFLOW_TRACKING_URI"] = (run.resolve().parent / STORE).as_uri()
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    tags = {"group": config.wandb.group, "folder": str(run)}
    arguments: dict[str, Any] = {"run_name": config.name, "tags": {key: v for key, v in tags.items() if v}}
    known = read_identity(run)
    return arguments | {"run_id": known} if resumed and known is not None else arguments


def _be_quick() -> None:
    for name, value in QUICK.items():
        os.environ.setdefault(name, value)


def read_identity(run: Path) -> str | None:
    """The id that `begin` kept in a run folder, or None."""
    return (tracker_run.read_identity(run / FILE_NAME) or {}).get("id")


def begin(accelerator: "Accelerator", settings: dict[str, Any], run: Path) -> None:
    """Tell MLflow the flat settings and keep the run's identity; a resumed run is told already.

    MLflow lets no setting change, so those of the first start stand.
    """
    tracker: Any = accelerator.get_tracker("mlflow")
    number = tracker.tracker.info.run_id
    if number != read_identity(run):
        tracker.store_init_configuration(settings)
    with atomic_write(run / FILE_NAME) as partial:
        partial.write_text(json.dumps({"id": number, "store": os.environ["MLFLOW_TRACKING_URI"]}, indent=2))


def end(accelerator: "Accelerator", summary: dict[str, Any], run: Path) -> None:
    """Hand over the numbers of the summary and, of a finished run, the adapters."""
    tracker: Any = accelerator.get_tracker("mlflow")
    numbers = {key: value for key, value in summary.items() if type(value) in (int, float)}
    tracker.log({f"summary/{key}": value for key, value in numbers.items()}, step=summary.get("steps"))
    if (run / "adapters").is_dir() and summary.get("finished"):
        tracker.log_artifacts(str(run / "adapters"), "adapters")


def tell_evaluation(config: RunConfig, run: Path, split: str, report: Mapping[str, Any]) -> None:
    """Put all numbers of an evaluation into the MLflow run of its training (`test/ctr/auc`, …), and the file itself."""
    values = {f"{split}/{name}": value for name, value in metrics_of(report).items()}
    _tell(config, run, "the evaluation", values, [run / f"evaluation_{split}.json"], "evaluation")


def tell_front(config: RunConfig, run: Path, record: Mapping[str, Any]) -> None:
    """Put the hypervolume of a front into the MLflow run of its training, and its files."""
    hypervolume = record["hypervolume"].items()
    values = {f"front/hypervolume_{name}": value for name, value in hypervolume if isinstance(value, int | float)}
    chosen = ["operating_point.json"] if (run / "operating_point.json").is_file() else []
    files = [run / name for name in ("front.json", "front.png", *chosen)]
    _tell(config, run, "the front", values, files, "front")


def _tell(
    config: RunConfig, run: Path, kind: str, values: Mapping[str, float], files: Sequence[Path], artifact_folder: str
) -> None:
    """Open the MLflow run of a training once more; a failure is warned of, for all lies in the run folder anyway.

    Nothing is told where the run does not track with MLflow, or training kept no identity.
    """
    identity = tracker_run.read_identity(run / FILE_NAME)
    if identity is None or not config.mlflow:
        return
    _be_quick()
    if identity["store"].startswith("file:"):
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    try:
        from mlflow.entities import Metric
        from mlflow.tracking import MlflowClient

        client, now = MlflowClient(identity["store"]), int(1000 * time.time())
        metrics = [Metric(metric_name(name), float(value), now, 0) for name, value in values.items()]
        client.log_batch(identity["id"], metrics=metrics)
        for file in files:
            client.log_artifact(identity["id"], str(file), artifact_folder)
    except Exception as error:
        tracker_run.warn_untold("MLflow", kind, error)


def metric_name(name: str) -> str:
    """A name as MLflow takes it: letters, digits and `_-. :/` alone."""
    return re.sub(r"[^\w\-. :/]", "_", name.replace("@", "_at_"))
