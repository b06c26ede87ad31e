"""What `equipoise validate` refuses beyond the schema: whatever `prepare` or `train` would refuse before any work."""

from equipoise.configs.balancing import TORCHJD
from equipoise.configs.schema import RunConfig
from equipoise.data.labels import labels_of, labels_read
from equipoise.data.prepare.headers import check_headers


def refuse_what_cannot_run(config: RunConfig) -> list[str]:
    """Check the balancing method and the headers of the tables; returns what could not be checked.

    Raises:
        UserError: the method cannot be used here, or a table lacks a column or cannot be read.
    """
    if config.balancing.method.startswith(TORCHJD):
        from equipoise.train.balancing.registry import build_method  # loads torch

        build_method(config.balancing)
    return check_headers(config.data, labels_of(config.objectives), labels_read(config.objectives))
