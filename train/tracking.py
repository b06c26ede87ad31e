"""Where the numbers of a run go: metrics.jsonl in the run folder, and W&B or TensorBoard through Accelerate."""

import json
import math
import time
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from configs.errors import UserError
from configs.schema import RunConfig
from configs.whole_file import whole_file


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for key, sub in value.items() for k, v in _flat(sub, f"{prefix}{key}.").items()}
    plain = value if isinstance(value, int | float | str | bool) else str(value)
    return {prefix.removesuffix("."): plain}


class Tracking:
    """Writes each record to metrics.jsonl at once and hands it to the trackers; only the main process writes."""

    def __init__(self, accelerator: Accelerator, config: RunConfig, run: Path, resumed: bool) -> None:
        self.accelerator = accelerator
        self.path = run / "metrics.jsonl"
        self.main = accelerator.is_main_process
        self.started = time.time()
        if self.main and not resumed:
            self.path.write_text("")
        if not accelerator.log_with:
            return
        wandb = {
            "mode": config.wandb.mode,
            "name": config.name,
            "entity": config.wandb.entity,
            "group": config.wandb.group,
            "job_type": config.wandb.job_type,
            "tags": config.wandb.tags,
            "dir": str(run),
        }
        try:
            accelerator.init_trackers(
                config.wandb.project, config=_flat(config.model_dump(mode="json")), init_kwargs={"wandb": wandb}
            )
        except Exception as error:
            if type(error).__module__.split(".")[0] != "wandb":
                raise
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"wandb.mode: W&B did not start ({reason}): set wandb.mode=offline or log in") from error

    def forget_after(self, step: int) -> None:
        """Drop records later than `step`: a resumed run writes them again."""
        if not (self.main and self.path.exists()):
            return
        lines = [line for line in self.path.read_text().splitlines() if _is_record_up_to(line, step)]
        with whole_file(self.path) as partial:
            partial.write_text("".join(f"{line}\n" for line in lines))

    def log(self, step: int, values: dict[str, float]) -> None:
        """Record `values` at optimizer step `step`; non-finite numbers become null in the file."""
        if not self.main:
            return
        clean = {key: (value if math.isfinite(value) else None) for key, value in values.items()}
        record = {"step": step, "seconds": round(time.time() - self.started, 3), **clean}
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        self.accelerator.log(values, step=step)

    def finish(self, summary: dict[str, Any], run: Path) -> None:
        """Write summary.json and close the trackers."""
        if self.main:
            with whole_file(run / "summary.json") as partial:
                partial.write_text(json.dumps(summary, indent=2))
        if self.accelerator.log_with:
            self.accelerator.end_training()


def _is_record_up_to(line: str, step: int) -> bool:
    try:
        return json.loads(line)["step"] <= step
    except (ValueError, KeyError):
        return False  # the last line of a killed run may be cut short
