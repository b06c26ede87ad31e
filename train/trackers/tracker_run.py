"""What the runs of W&B and MLflow have in common: an identity in the run folder, and failures that are warned of."""

import json
import logging
from pathlib import Path
from typing import Any

from equipoise.common.errors import format_error


def read_identity(path: Path) -> dict[str, Any] | None:
    """What training kept in a file of the run folder, or None."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def warn_untold(tracker: str, kind: str, error: Exception) -> None:
    """Say that a tracker was not told of something, which lies in the run folder anyway."""
    logging.getLogger(__name__).warning("%s was not told of %s (%s)", tracker, kind, format_error(error))
