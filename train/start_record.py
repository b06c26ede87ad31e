"""What a run folder says of the run that it began from: `start.json`."""

import json
from pathlib import Path
from typing import Any

from equipoise.common.errors import UserError

FILE_NAME = "start.json"
"""In a run folder: from which run it began, and with what."""


def read_start(run: Path) -> dict[str, Any] | None:
    """What a run folder says of where it began; None of a run that began from nothing.

    Raises:
        UserError: the record is damaged.
    """
    try:
        return json.loads((run / FILE_NAME).read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{run / FILE_NAME} cannot be read: restore it, or train again") from error
