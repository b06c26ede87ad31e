"""Settings in YAML files."""

from pathlib import Path
from typing import Any

import yaml

from equipoise.common.errors import UserError

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The C parser reads a config ten times as fast, which counts for hundreds of runs."""


def read_yaml(path: Path, hint: str, empty_hint: str | None = None, place: str = "") -> dict[str, Any]:
    """The mapping in a YAML file.

    Args:
        path: of the file.
        hint: what to do where it cannot be read.
        empty_hint: what to do where it holds no mapping; None: the same.
        place: before the path in a message, such as "--accelerate ".

    Raises:
        UserError: it is missing or no YAML, or holds no mapping.
    """
    try:
        settings = yaml.load(path.read_text(encoding="utf-8"), LOADER)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{place}{path} cannot be read as YAML ({' '.join(str(error).split())}): {hint}") from error
    if not isinstance(settings, dict):
        raise UserError(f"{place}{path} holds no settings: {empty_hint or hint}")
    return settings
