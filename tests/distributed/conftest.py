"""Launching real jobs of real processes on a tiny prepared data set."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.forked_job import launch_forked, run_forked
from tests.tiny_run import run_settings, write_config

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Job:
    """A finished job: its run folder, exit code and what it printed."""

    folder: Path
    code: int
    printed: str

    def adapters(self) -> dict[str, torch.Tensor]:
        """The trained tensors it left."""
        return load_file(self.folder / "adapters" / "adapters.safetensors")

    def metrics(self) -> list[dict[str, Any]]:
        """The records of metrics.jsonl."""
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]


Launch = Callable[..., Job]


def run_command(command: list[str], timeout: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the project's root without inheriting a launcher's environment."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("ACCELERATE_", "RANK", "WORLD_SIZE"))}
    inherited |= {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **environment}
    return subprocess.run(
        command, cwd=ROOT, env=inherited, capture_output=True, text=True, timeout=timeout, check=False
    )


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared tiny data set and the config that trains on it."""
    folder = tmp_path_factory.mktemp("tiny")
    config = write_config(run_settings(folder), folder / "config.yaml")
    done = run_forked(["prepare", str(config)])
    assert done.returncode == 0, done.stdout + done.stderr
    return config


@pytest.fixture(scope="session")
def launch(tiny_config: Path) -> Launch:
    """Launch a training job: `launch("cpu_zero2", out, "train.lr=1e-3", …)`; engine None is one
    plain process, others have two or as many as `processes` says. An engine that ends with .yaml is a file.

    `real` starts the launcher and its ranks as new processes; else they are forked, which spares their imports.
    """

    def run(
        engine: str | None,
        output: Path,
        *arguments: str,
        config: Path = tiny_config,
        real: bool = False,
        processes: int = 2,
        **environment: str,
    ) -> Job:
        whole = [str(config), f"output={output}", *arguments]
        if engine is None:
            done = run_forked(["train", *whole], **environment)
        else:
            done = accelerate(
                engine, "-m", "equipoise.launch.train", *whole, real=real, processes=processes, **environment
            )
        return Job(output, done.returncode, done.stdout + done.stderr)

    return run


def accelerate(
    engine: str, *arguments: str, real: bool = False, processes: int = 2, **environment: str
) -> subprocess.CompletedProcess[str]:
    """`accelerate launch` with a file of this project, or the file `engine`; forked unless `real`."""
    file = engine if engine.endswith(".yaml") else str(ROOT / "configs" / "accelerate" / f"{engine}.yaml")
    options = ["--main_process_port", "0", "--num_processes", str(processes)]
    whole = ["--config_file", file, *options, *arguments]
    if not real:
        return launch_forked(whole, **environment)
    return run_command([sys.executable, "-m", "accelerate.commands.launch", *whole], **environment)
