"""The W&B run of a training: its identity, kept in the run folder, and what only W&B takes beside the numbers."""

import contextlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equipoise.common.atomic import atomic_write
from equipoise.configs.schema import RunConfig
from equipoise.train.best_adapters import FOLDER as BEST
from equipoise.train.best_adapters import read_best
from equipoise.train.data_record import FILE_NAME as DATA
from equipoise.train.resume import FILE_NAME as BASE
from equipoise.train.trackers.tracker_run import read_identity, warn_untold

if TYPE_CHECKING:
    from accelerate import Accelerator  # a second, which reading W&B's files does not wait for

FILE_NAME = "wandb.json"
UPLOAD_SECONDS = 60
"""How long the end of a run waits until its best adapters are uploaded."""
FINISH_SECONDS = 300
"""How long the end of a run waits for all its data, which else is for ever where the network is lost."""
REGISTRY = "wandb-registry-"
"""Before the name of a registry in W&B's paths."""
STEP = "optimizer_step"
"""The axis of all curves: W&B's own step counts calls."""
ENVIRONMENT = "environment"
"""Key of the config, beside the settings."""
EVALUATION, FRONT = "evaluation", "front"
"""Keys of the summary: split → report; and what was chosen on the front."""


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
        "settings": _settings(),
    }
    known = read_identity(run / FILE_NAME)
    if resumed and known is not None:
        arguments |= {"id": known["id"], "resume": "allow"}
    return arguments


def _settings() -> dict[str, Any]:
    """Of W&B's client: an end that gives up waiting, and leaves the data to `wandb sync`."""
    return {} if "WANDB_FINISH_TIMEOUT" in os.environ else {"finish_timeout": float(FINISH_SECONDS)}


def begin(accelerator: "Accelerator", config: RunConfig, environment: dict[str, Any], run: Path) -> None:
    """Tell W&B the nested config, the state of the code and the step axis, and keep the run's identity."""
    wandb_run: Any = accelerator.get_tracker("wandb", unwrap=True)
    wandb_run.config.update({**config.model_dump(mode="json"), ENVIRONMENT: environment}, allow_val_change=True)
    wandb_run.define_metric(STEP)
    wandb_run.define_metric("*", step_metric=STEP)
    _use_inputs(wandb_run, config, run)
    identity = {"id": wandb_run.id, "project": config.wandb.project, "entity": config.wandb.entity}
    with atomic_write(run / FILE_NAME) as partial:
        partial.write_text(json.dumps({**identity, "mode": config.wandb.mode, "folder": _folder(wandb_run)}, indent=2))


def _use_inputs(wandb_run: Any, config: RunConfig, run: Path) -> None:
    """Make the prepared data and the base artifacts that this run uses; equal contents are one version for all runs.

    A failure is warned of, for the run folder holds the same records. `Run.use_artifact` would refuse offline and wait
    for the network online; the step of the client that it calls itself does neither.
    """
    try:
        import wandb

        for name, kind, content in inputs(config, run):
            artifact = wandb.Artifact(name, type=kind, metadata={"config": config.name})
            with artifact.new_file("record.json") as file:
                json.dump(content, file, indent=1, sort_keys=True)
            wandb_run._log_artifact(artifact, aliases=["latest"], is_user_created=True, use_after_commit=True)
    except Exception as error:
        warn_untold("W&B", "the run's inputs", error)


def inputs(config: RunConfig, run: Path) -> list[tuple[str, str, dict[str, Any]]]:
    """What a run was trained on by its records in the run folder: artifact's name and kind, and what identifies it."""
    data, base = read_identity(run / DATA), read_identity(run / BASE)
    found = []
    if data is not None:
        kept = {key: data[key] for key in ("source", "counts", "splits", "hashes")}
        found.append((artifact_name(f"{config.data.folder.name}-data"), "dataset", kept))
    if base is not None:
        content = {"path": config.backbone.path, "revision": config.backbone.revision, **base}
        found.append((artifact_name(f"{config.backbone.path}-base"), "model", content))
    return found


def artifact_name(text: str) -> str:
    """A text as W&B takes it for the name of an artifact: letters, digits and `-_.`, at most 128."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-")[-128:]


def alert(accelerator: "Accelerator", title: str, text: str) -> None:
    """Send an alert, whose title W&B wants shorter than 64 characters."""
    wandb_run: Any = accelerator.get_tracker("wandb", unwrap=True)
    wandb_run.alert(title[:63], text, level="ERROR")


def end(accelerator: "Accelerator", config: RunConfig, summary: dict[str, Any], run: Path) -> str | None:
    """Hand over the summary and the adapters; returns how an offline run is sent later, None for others.

    The last adapters get the alias `latest`, those of the best validation `best`; where these are the same, one version
    gets both.
    """
    wandb_run: Any = accelerator.get_tracker("wandb", unwrap=True)
    wandb_run.summary.update(summary)
    if (run / "adapters").is_dir() and summary.get("finished"):
        best = read_best(run)
        last_is_best = best is not None and best["step"] == summary.get("steps") and "average" not in best
        if best is not None and not last_is_best:
            logged = _log_adapters(wandb_run, config, run / BEST, ["best"], best)
            if config.wandb.mode == "online":
                with contextlib.suppress(Exception):  # a lost network may mix up the order, but loses no adapters
                    logged.wait(timeout=UPLOAD_SECONDS)
        # After the other is there: W&B gives `latest` to the newest version.
        last = _log_adapters(
            wandb_run, config, run / "adapters", ["latest", *(["best"] if last_is_best else [])], summary
        )
        if config.wandb.registry is not None:
            chosen = logged if best is not None and not last_is_best else last
            _link(wandb_run, chosen, config.wandb.registry)
    return f"wandb sync {_folder(wandb_run)}" if config.wandb.mode == "offline" else None


def _link(wandb_run: Any, adapters: Any, collection: str) -> None:
    """Link adapters into W&B's registry; a failure is warned of, for they can be linked later by hand."""
    try:
        adapters.wait(timeout=UPLOAD_SECONDS)
        wandb_run.link_artifact(adapters, target_path=f"{REGISTRY}{collection}")
    except Exception as error:
        warn_untold("W&B", f"the link to {collection}", error)


def _log_adapters(wandb_run: Any, config: RunConfig, folder: Path, aliases: list[str], metadata: dict[str, Any]) -> Any:
    import wandb

    artifact = wandb.Artifact(f"{config.name}-adapters", type="adapters", metadata=metadata)
    artifact.add_dir(str(folder))
    return wandb_run.log_artifact(artifact, aliases=aliases)


def tell_evaluation(config: RunConfig, run: Path, split: str, report: Mapping[str, Any]) -> str | None:
    """Put an evaluation into the W&B run of its training: the report in the summary, and as an artifact.

    Args:
        config: of the run.
        run: its folder.
        split: of the report.
        report: as it was written to evaluation_SPLIT.json.

    Returns:
        how an offline run is sent later, None for others.
    """

    def tell(joined: Any, wandb: Any) -> None:
        joined.summary[EVALUATION] = {split: report}
        artifact = wandb.Artifact(f"{config.name}-evaluation-{split}", type="evaluation")
        artifact.add_file(str(run / f"evaluation_{split}.json"))
        joined.log_artifact(artifact, aliases=["latest"])

    return _join(config, run, "the evaluation", tell)


def tell_front(config: RunConfig, run: Path, record: Mapping[str, Any]) -> str | None:
    """Put a front into the W&B run of its training: the choices in the summary; files and a table as an artifact.

    Args:
        config: of the run.
        run: its folder, with front.json, front.png and, where something was chosen, operating_point.json.
        record: as it was written to front.json.

    Returns:
        how an offline run is sent later, None for others.
    """

    def tell(joined: Any, wandb: Any) -> None:
        joined.summary[FRONT] = {key: record[key] for key in ("axes", "hypervolume", "chosen", "choices")}
        artifact = wandb.Artifact(f"{config.name}-front", type="front", metadata={"axes": record["axes"]})
        chosen = ["operating_point.json"] if (run / "operating_point.json").is_file() else []
        for name in ("front.json", "front.png", *chosen):
            artifact.add_file(str(run / name))
        columns, rows = front_rows(record)
        artifact.add(wandb.Table(columns=columns, data=rows), "trade-offs")
        joined.log_artifact(artifact, aliases=["latest"])

    return _join(config, run, "the front", tell)


def front_rows(record: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """The trade-offs of front.json as a table: weights, metrics, whether on the front, and which ways chose it."""
    points = record["points"]
    kinds = ("omega", "relevance_weights", "value_exponents")
    weights = [(kind, name) for kind in kinds for name in points[0].get(kind) or {}]
    metrics = list(points[0]["metrics"])
    ways = [
        [way for way, choice in record["choices"].items() if choice["point"] == number] for number in range(len(points))
    ]
    rows = [
        [*(point[kind][name] for kind, name in weights), *(point["metrics"][name] for name in metrics),
         point["on_front"], ", ".join(chosen)]
        for point, chosen in zip(points, ways, strict=True)
    ]  # fmt: skip
    heads = [name if kind == "omega" else f"{kind}/{name}" for kind, name in weights]
    return [*heads, *metrics, "on_front", "chosen_by"], rows


def _join(config: RunConfig, run: Path, kind: str, tell: Callable[[Any, Any], None]) -> str | None:
    """Open the W&B run of a training once more and tell it something; returns how an offline one is sent later.

    A failure is warned of, for all numbers lie in the run folder anyway. Nothing is told where training kept no
    identity, or W&B is disabled.
    """
    identity = read_identity(run / FILE_NAME)
    if identity is None or config.wandb.mode == "disabled":
        return None
    import wandb

    try:
        joined: Any = wandb.init(
            project=identity["project"],
            entity=identity["entity"],
            id=identity["id"],
            name=config.name,
            mode=config.wandb.mode,
            dir=str(run),
            settings=_settings(),
            resume="allow" if config.wandb.mode == "online" else None,  # an offline one is joined when it is sent
        )
        tell(joined, wandb)
        folder = _folder(joined)
        joined.finish()
    except Exception as error:
        warn_untold("W&B", kind, error)
        return None
    return f"wandb sync {folder}" if config.wandb.mode == "offline" else None


def _folder(wandb_run: Any) -> str:
    return str(Path(wandb_run.dir).parent)
