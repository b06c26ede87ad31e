"""The settings in which runs differ, by dotted key; what all share is not shown."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

NOT_COMPARED = ("name", "output", "seed", "wandb", "tensorboard", "mlflow", "trackers")
"""Settings that name, place, seed or record a run, and do not change what it is an example of."""
ABSENT = None


def compared(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without the settings that only name, place, seed or record a run."""
    return {key: value for key, value in config.items() if key not in NOT_COMPARED}


def identity(config: Mapping[str, Any]) -> str:
    """Equal for runs that differ in nothing but their seed and what names or records them."""
    return json.dumps(compared(config), sort_keys=True, default=str)


def differing(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Dotted key → its value in each config, for the keys in which they differ, in the order of the configs.

    A section that some configs lack (an objective) is one key, with True where it is there; its settings follow where
    those that have it differ. A key that is a section here and a value there is one key as a whole.

    Args:
        configs: nested, as in config.yaml.

    Returns:
        key → values, None where a config lacks it.
    """
    values_of: dict[str, list[Any]] = {}
    _compare([compared(config) for config in configs], "", values_of)
    return values_of


def setting(config: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key; None where the config lacks it."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def written(value: Any) -> str:
    """A setting as one short text: yes for a section that is there, a dash for what is absent."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False).replace('"', "")


def _compare(sections: Sequence[Any], prefix: str, values_of: dict[str, list[Any]]) -> None:
    present = [section for section in sections if section is not ABSENT]
    if all(section == present[0] for section in present) and len(present) in (0, len(sections)):
        return
    if not all(isinstance(section, Mapping) and section for section in present):
        values_of[prefix] = list(sections)
        return
    if len(present) < len(sections):
        values_of[prefix] = [True if section is not ABSENT else None for section in sections]
        inner: dict[str, list[Any]] = {}
        _inside(present, prefix, inner)
        for key, values in inner.items():
            held = iter(values)
            values_of[key] = [next(held) if section is not ABSENT else None for section in sections]
        return
    _inside(sections, prefix, values_of)


def _inside(sections: Sequence[Mapping[str, Any]], prefix: str, values_of: dict[str, list[Any]]) -> None:
    for key in dict.fromkeys(key for section in sections for key in section):
        _compare([section.get(key, ABSENT) for section in sections], f"{prefix}.{key}" if prefix else key, values_of)
