"""What ends a sweep: the comparison of its finished runs."""

from collections.abc import Sequence

from configs.sweep import SweepConfig
from launch.sweep.plan import PlannedRun


def compare_runs(sweep: SweepConfig, finished: Sequence[PlannedRun]) -> None:
    """Compare the finished runs as `equipoise compare` does; the page and tables go into the sweep's folder."""
    raise NotImplementedError
