"""Where the numbers of a run go: metrics.jsonl in the run folder, and W&B, TensorBoard, MLflow through Accelerate."""

import json
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from equipoise.common.atomic import atomic_write
from equipoise.common.errors import UserError, format_error
from equipoise.configs.schema import RunConfig
from equipoise.train.environment import FILE_NAME as ENVIRONMENT
from equipoise.train.environment import environment
from equipoise.train.trackers import mlflow_run, wandb_run


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for key, sub in value.items() for k, v in _flat(sub, f"{prefix}{key}.").items()}
    plain = value if isinstance(value, int | float | str | bool) else str(value)
    return {prefix.removesuffix("."): plain}


class Tracking:
    """Writes each record to metrics.jsonl at once and hands it to the trackers; only the main process writes.

    A tracker that fails after it has started is warned of once and told no more: the training goes on, and its numbers
    are in metrics.jsonl.
    """

    def __init__(self, accelerator: Accelerator, config: RunConfig, run: Path, resumed: bool) -> None:
        self.accelerator, self.config = accelerator, config
        self.path = run / "metrics.jsonl"
        self.main = accelerator.is_main_process
        self.started = time.time()
        self.failed = False
        where = environment(accelerator.num_processes)
        if self.main:
            if not resumed:
                self.path.write_text("")
            with atomic_write(run / ENVIRONMENT) as partial:
                partial.write_text(json.dumps(where, indent=2))
        if not accelerator.log_with:
            return
        self._start(where, run, resumed)

    def _start(self, where: dict[str, Any], run: Path, resumed: bool) -> None:
        accelerator, config = self.accelerator, self.config
        arguments = {"wandb": wandb_run.init_arguments(config, run, resumed)}
        if config.mlflow:
            arguments["mlflow"] = mlflow_run.init_arguments(config, run, resumed)
        try:
            accelerator.init_trackers(config.wandb.project, init_kwargs=arguments)
            flat = _flat(config.model_dump(mode="json"))
            if not self.main:
                return
            for tracker in accelerator.trackers:
                if tracker.name == "wandb":  # is told the nested settings
                    wandb_run.begin(accelerator, config, where, run)
                elif tracker.name == "mlflow":
                    mlflow_run.begin(accelerator, flat, run)
                else:
                    tracker.store_init_configuration(flat)
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            kind = type(error).__module__.split(".")[0]
            if kind == "wandb":
                way_out = f"wandb.mode: W&B did not start ({reason}): set wandb.mode=offline or log in"
            elif kind == "mlflow":
                way_out = f"mlflow: it did not start ({reason}): correct MLFLOW_TRACKING_URI, or set mlflow=false"
            else:
                raise
            raise UserError(way_out) from error

    @property
    def with_wandb(self) -> bool:
        """Whether W&B is one of the trackers."""
        return self._has("wandb")

    def _has(self, name: str) -> bool:
        return any(tracker.name == name for tracker in self.accelerator.trackers)

    def _told(self, tell: Callable[[], Any]) -> Any:
        """Tell the trackers something, which a lost network must not turn into a lost training."""
        if self.failed:
            return None
        try:
            return tell()
        except Exception as error:
            self.failed = True
            reason = format_error(error)
            logging.getLogger(__name__).warning(
                "the experiment trackers failed (%s): training goes on, all numbers are in %s", reason, self.path
            )
            return None

    def forget_after(self, step: int) -> None:
        """Drop records later than `step`: a resumed run writes them again."""
        if not (self.main and self.path.exists()):
            return
        lines = [line for line in self.path.read_text().splitlines() if _is_record_up_to(line, step)]
        with atomic_write(self.path) as partial:
            partial.write_text("".join(f"{line}\n" for line in lines))

    def log(self, step: int, values: dict[str, float]) -> None:
        """Record `values` at optimizer step `step`; non-finite numbers become null in the file."""
        if not self.main:
            return
        clean = {key: (value if math.isfinite(value) else None) for key, value in values.items()}
        record = {"step": step, "seconds": round(time.time() - self.started, 3), **clean}
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        if self.accelerator.log_with:
            with_step = {**values, wandb_run.STEP: step} if self.with_wandb else values
            self._told(lambda: self.accelerator.log(with_step, step=step))

    def alert(self, title: str, text: str) -> None:
        """Have W&B tell its users something at once (by Slack or mail, as they have set); by the main process alone."""
        if self.main and self.accelerator.log_with and self.with_wandb:
            self._told(lambda: wandb_run.alert(self.accelerator, f"{title}: {self.config.name}", text))

    def finish(self, summary: dict[str, Any], run: Path) -> str | None:
        """Write summary.json and close the trackers; returns how an offline W&B run is sent later, if it is one."""
        hint = None
        if self.main:
            with atomic_write(run / "summary.json") as partial:
                partial.write_text(json.dumps(summary, indent=2))
        if self.accelerator.log_with:
            if self.main and self.with_wandb:
                hint = self._told(lambda: wandb_run.end(self.accelerator, self.config, summary, run))
            if self.main and self._has("mlflow"):
                self._told(lambda: mlflow_run.end(self.accelerator, summary, run))
            self._told(self.accelerator.end_training)
        return hint


def _is_record_up_to(line: str, step: int) -> bool:
    try:
        return json.loads(line)["step"] <= step
    except (ValueError, KeyError):
        return False  # the last line of a killed run may be cut short
