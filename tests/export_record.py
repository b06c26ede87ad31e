"""Records of exports as another export would have written them: with a digest of their own."""

import json
from pathlib import Path
from typing import Any

from equipoise.common.digest import with_digest


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write `serving.json`, which vouches for itself."""
    (folder / "serving.json").write_text(json.dumps(with_digest(record)))
