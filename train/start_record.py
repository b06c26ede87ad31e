"""What a run folder says of the run that it began from: `start.json`."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from equipoise.common.atomic import atomic_write
from equipoise.common.errors import UserError

FILE_NAME = "start.json"
"""In a run folder: from which run it began, and with what."""


@dataclass(frozen=True)
class StartRecord:
    """From where a run began.

    Attributes:
        run: the folder of the earlier run.
        adapters: the sha256 of its adapters.
        prior: kept, refitted or none.
        optimizer: a sentence on its moments.
        prior_origin: of priors that were kept: the prepared folder (`data`) and `store` where they were fitted.
    """

    run: str
    adapters: str
    prior: str
    optimizer: str
    prior_origin: Mapping[str, str] | None = None

    def write(self, run: Path) -> None:
        """Keep it in the folder of the run that begins."""
        with atomic_write(run / FILE_NAME) as partial:
            partial.write_text(json.dumps(asdict(self), indent=2) + "\n", "utf-8")


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
