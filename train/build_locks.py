"""Locks that a killed job left in torch's folder of compiled extensions, on which every later job would wait for ever.

DeepSpeed compiles small extensions at its start, under a lock file (`torch.utils.file_baton.FileBaton`) that only the
process that made it removes. One killed at that moment leaves it behind, and all that start after it stand still
without a word until somebody finds the file.
"""

import logging
import os
import time
from pathlib import Path

from torch.utils.cpp_extension import get_default_build_root

log = logging.getLogger(__name__)
# Older than any build takes: on a shared home folder, the builder may be a process of another machine.
STALE_AFTER_SECONDS = 120.0


def build_root() -> Path:
    """The folder under which torch compiles extensions (`TORCH_EXTENSIONS_DIR`, or its default)."""
    return Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())


def release_stale_build_locks(root: Path, stale_after: float = STALE_AFTER_SECONDS, poll: float = 0.5) -> list[Path]:
    """Wait for running builds under `root` and remove the locks of dead ones; the removed locks, in order of names.

    A lock that a living process of this machine holds open is waited for. One that nobody here holds is removed once it
    is `stale_after` seconds old, with a warning; it is looked at twice, since a builder lets go of it just before it
    removes it.
    """
    removed = []
    for lock in sorted({*root.glob("*/lock"), *root.glob("*/*/lock")}):
        reported = unheld = False
        while True:
            try:
                age = time.time() - lock.stat().st_mtime
            except FileNotFoundError:
                break  # its builder has finished, or a neighbour removed it
            unheld, was_unheld = not _held(lock), unheld
            if unheld:
                if age >= stale_after and was_unheld:
                    lock.unlink(missing_ok=True)
                    removed.append(lock)
                    log.warning(f"removed {lock}: left by a job that was killed while it compiled")
                    break
                if age < stale_after and not reported:
                    log.warning(f"waiting for {lock}: removed when it is {stale_after:.0f} s old")
                    reported = True
            time.sleep(poll)
    return removed


def _held(lock: Path) -> bool:
    """Whether a process of this machine that we may look into has the file open."""
    wanted = os.path.realpath(lock)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.path.realpath(descriptor) == wanted for descriptor in (process / "fd").iterdir()):
                return True
        except OSError:
            continue  # gone meanwhile, or somebody else's
    return False
