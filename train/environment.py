"""Where a run ran: the state of the code, the machine, the versions, how it was launched."""

import importlib.metadata
import os
import platform
import resource
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PACKAGES = ("equipoise", "torch", "transformers", "accelerate", "deepspeed", "peft", "datasets", "wandb")
FILE_NAME = "environment.json"


def environment(processes: int) -> dict[str, Any]:
    """What `environment.json` holds, as plain JSON values: git, machine, versions, processes, launcher."""
    import torch  # whoever only reads the file does without

    return {
        "git": git_state(Path.cwd()),
        "machine": {
            "system": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "versions": versions(PACKAGES),
        "processes": processes,
        "accelerate": {key: value for key, value in sorted(os.environ.items()) if key.startswith("ACCELERATE_")},
    }


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit, branch (None where HEAD is detached) and whether files differ from it; None outside of git."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()

    try:
        branch = git("rev-parse", "--abbrev-ref", "HEAD")
        state = {"commit": git("rev-parse", "HEAD"), "branch": None if branch == "HEAD" else branch}
        return {**state, "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def peak_memory_bytes() -> int:
    """The most memory that this process has held: allocated on its GPU or, without one, resident."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def versions(packages: Sequence[str]) -> dict[str, str | None]:
    """Of Python and of packages; None for those that are not installed."""
    installed: dict[str, str | None] = {"python": platform.python_version()}
    for package in packages:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            installed[package] = None
    return installed
