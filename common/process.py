"""What processes of a job tell each other and their callers, and what they have of their machine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 75
"""Exit code of a training that was stopped and that --resume goes on with (EX_TEMPFAIL of sysexits.h)."""

LAUNCHER = "EQUIPOISE_LAUNCHER"
"""Variable with the process id of `equipoise launch`, for the processes that it starts."""


def usable_cores() -> int:
    """Cores that this process may use: fewer than the machine has in a container or a Slurm task."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def with_variables(**values: str) -> Iterator[None]:
    """Environment variables as long as the block runs; what they were before comes back."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
