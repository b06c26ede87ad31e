"""Settings in YAML files, read strictly: what is written there is meant, and no file exhausts memory."""

from pathlib import Path
from typing import Any

import yaml

from equipoise.common.errors import UserError

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The C parser reads a config ten times as fast, which counts for hundreds of runs."""
MOST_BYTES = 4 << 20
DEEPEST = 40
MOST_VALUES = 200_000
"""Values of a file, those that aliases repeat counted again."""


class _StrictLoader(LOADER):
    """Refuses a key that stands twice in one mapping, of which the last would win silently."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            name = getattr(key, "value", None)
            if isinstance(name, str) and name != "<<":
                if name in seen:
                    raise yaml.YAMLError(f"key '{name}' stands in line {seen[name]} and again in line {line}")
                seen[name] = line
        return super().construct_mapping(node, deep)


def load_yaml(text: str) -> Any:
    """What a YAML text holds.

    Raises:
        yaml.YAMLError: it is no YAML, a key stands twice in a mapping, or it is nested or repeats itself beyond bounds.
    """
    _refuse_bombs(text)
    return yaml.load(text, _StrictLoader)


def _refuse_bombs(text: str) -> None:
    """Refuse what is nested too deeply, or grows too much by aliases, before anything is built of it."""
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []  # anchor, and the number of values before it
    values = 0
    for event in yaml.parse(text, LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, values))
            values += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor:
                sizes[anchor] = values - before
        elif isinstance(event, yaml.AliasEvent):
            values += sizes.get(event.anchor or "", 1)
        elif isinstance(event, yaml.ScalarEvent):
            values += 1
        if len(open_nodes) > DEEPEST:
            raise yaml.YAMLError(f"it is nested more than {DEEPEST} deep")
        if values > MOST_VALUES:
            raise yaml.YAMLError(f"it holds more than {MOST_VALUES:,} values, those of aliases included")


def read_yaml(path: Path, hint: str, empty_hint: str | None = None, place: str = "") -> dict[str, Any]:
    """The mapping in a YAML file.

    Args:
        path: of the file.
        hint: what to do where it cannot be read.
        empty_hint: what to do where it holds no mapping; None: the same.
        place: before the path in a message, such as "--accelerate ".

    Raises:
        UserError: it is missing or no YAML, holds no mapping, or a key twice, or is too large.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{place}{path} is larger than {MOST_BYTES >> 20} MiB, which no settings are: {hint}")
        settings = load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{place}{path} cannot be read as YAML ({' '.join(str(error).split())}): {hint}") from error
    if not isinstance(settings, dict):
        raise UserError(f"{place}{path} holds no settings: {empty_hint or hint}")
    return settings
