"""What may change when a run goes on from its checkpoint: the list, and a sentence on what did change."""

import json
import logging
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from equipoise.common.atomic import atomic_write
from equipoise.common.errors import UserError
from equipoise.configs.schema import RunConfig
from equipoise.modeling.base_identity import Identity, compare
from equipoise.train.world import World

log = logging.getLogger(__name__)

FILE_NAME = "inputs.json"
SAME_NUMBERS = (
    # where things lie: their content is compared by its hashes
    *("name", "output", "data.folder", "data.remote", "data.source", "data.file", "data.tables.*"),
    *("data.memory_limit", "data.engine", "data.spark.*"),
    *("backbone.path", "backbone.tokenizer", "backbone.revision"),
    # how the same numbers are computed
    *(
        "backbone.attention",
        "backbone.checkpointing",
        "backbone.compile",
        "backbone.kernels",
        "train.workers",
        "tokens.max_row",
        "train.self_check",
    ),
    # what is told of them, and to whom
    *("train.log_every", "train.save_every", "train.keep_checkpoints", "nightly.*"),
    *("wandb.*", "tensorboard", "mlflow"),
)
"""Settings that change nothing in what a run comes to."""
MAY_CHANGE = (
    *SAME_NUMBERS,
    # how far and how fast
    *("train.epochs", "train.max_steps", "train.lr", "train.head_lr", "train.warmup", "train.min_lr_ratio"),
    *("train.weight_decay", "train.max_grad_norm", "train.max_nonfinite"),
    *("balancing.map", "balancing.probe_every"),
    # what is logged, kept, chosen and measured
    *("train.eval_every", "train.eval_requests"),
    *("train.select*", "train.patience", "train.average", "train.calibration"),
    "evaluate.*",
)
"""Settings that `--resume` accepts in other values; every other one must be as the run began with it."""
SILENT = ("name", "output", "data.folder", "data.remote", "data.file", "data.tables.*", "wandb.*")
"""Of those, the ones that change nothing in what is learned and need no mention."""


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {k: v for key, sub in value.items() for k, v in _flat(sub, f"{prefix}{key}.").items()}
    return {prefix.removesuffix("."): value}


def changes(before: RunConfig, now: RunConfig) -> dict[str, tuple[Any, Any]]:
    """The settings that differ, with both values."""
    one, other = (_flat(config.model_dump(mode="json")) for config in (before, now))
    pairs = {key: (one.get(key), other.get(key)) for key in sorted({*one, *other})}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _matches(key: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(key, pattern) or fnmatch(key, f"{pattern}.*") for pattern in patterns)


def refuse_changed_settings(
    before: RunConfig, now: RunConfig, run: Path, may_change: tuple[str, ...] = MAY_CHANGE
) -> None:
    """Refuse settings that a run cannot change on its way, and say which others have changed.

    Args:
        before: the settings that it began with.
        now: those with which it is to go on.
        run: its folder.
        may_change: patterns of the settings that may differ.

    Raises:
        UserError: names them with both values.
    """
    changed = changes(before, now)
    forbidden = {key: pair for key, pair in changed.items() if not _matches(key, may_change)}
    refused = [f"{key} (was {_told(a)}, now {_told(b)})" for key, (a, b) in forbidden.items()]
    if refused:
        more = f" and {len(refused) - 4} more" if len(refused) > 4 else ""
        raise UserError(
            f"{run} cannot go on with other settings than it began with: {', '.join(refused[:4])}{more}: set them "
            "back, or start anew with --overwrite or another output"
        )
    told = [f"{key} {_told(a)} → {_told(b)}" for key, (a, b) in changed.items() if not _matches(key, SILENT)]
    if told:
        log.warning(f"changed since the run began: {', '.join(told)}")


def begun_processes(parts: int, config: RunConfig, world: World) -> int:
    """The processes that a run began with, after saying what it means that there are others now.

    Args:
        parts: that number.
        config: of the run.
        world: the processes of the job.

    Raises:
        UserError: the run cannot go on with another number.
    """
    if parts == world.size:
        return parts
    if config.objectives.recall is not None:
        raise UserError(
            f"the run began with {parts} process(es), this job has {world.size}: objectives.recall draws shoppers on "
            f"each process, so go on with {parts}"
        )
    if config.balancing.unbiased:
        raise UserError(
            f"the run began with {parts} process(es), this job has {world.size}: balancing.unbiased compares gradients "
            f"of processes, so go on with {parts}"
        )
    draws = "; lora.dropout draws anew" if config.lora.dropout else ""
    log.warning(
        f"the run began with {parts} process(es) and goes on with {world.size}: its batches stay as they were, dealt "
        f"out anew{draws}"
    )
    return parts


def _told(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def write_inputs(identity: Identity, run: Path) -> None:
    """Keep what a run began on."""
    with atomic_write(run / FILE_NAME) as partial:
        partial.write_text(json.dumps(vars(identity), indent=2) + "\n", "utf-8")


def refuse_changed_base(identity: Identity, config: RunConfig, run: Path) -> None:
    """Refuse to go on with another base or tokenizer than a run began on.

    Raises:
        UserError: names what differs, or the record is damaged.
    """
    path = run / FILE_NAME
    try:
        began = Identity(**json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        log.info(f"note: {run} does not say on which weights of the base it began, so that is not checked")
        return
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read: restore it, or start anew with --overwrite") from error
    compare(began, identity, config.backbone, str(run))
