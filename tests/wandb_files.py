"""W&B's offline files as this process has written them: its service goes on writing for a moment after `finish`."""

import time
from pathlib import Path
from typing import Any

from equipoise.evaluation.compare.wandb_runs import records


def whole_records(folder: Path, seconds: float = 30.0) -> list[list[Any]]:
    """The records of every .wandb file below a folder, the oldest file first, once each of them has its last record."""
    end = time.monotonic() + seconds
    while True:
        files = sorted(folder.rglob("run-*.wandb"))
        told = [list(records(file)) for file in files]
        if files and all(each and each[-1].WhichOneof("record_type") == "exit" for each in told):
            return told
        assert time.monotonic() < end, f"{folder} holds no whole W&B file"
        time.sleep(0.02)
