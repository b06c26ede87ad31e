"""Settings that had another name in the version before; their old names are read for one version, with a warning."""

from typing import Any

RENAMED = {
    "train.forget": "train.feature_dropout",
    "data.split.valid_share": "data.split.valid_fraction",
    "data.split.test_share": "data.split.test_fraction",
    "data.features.told": "data.features.included",
    "data.features.slopes": "data.features.interactions",
}
"""Old key → new key, in the same section; a section may be a list."""


def with_new_names(settings: Any) -> tuple[Any, list[str]]:
    """The settings under their new names, and the old names that they had; the argument stays as it is.

    Raises:
        ValueError: a setting is there under both names.
    """
    old_names: list[str] = []
    for old, new in RENAMED.items():
        *parents, key = old.split(".")
        settings, changed = _renamed(settings, parents, key, new)
        old_names += [old] if changed else []
    return settings, old_names


def _renamed(section: Any, parents: list[str], key: str, new: str) -> tuple[Any, bool]:
    if isinstance(section, list):
        parts = [_renamed(part, parents, key, new) for part in section]
        return [part for part, _ in parts], any(changed for _, changed in parts)
    name = parents[0] if parents else key
    if not isinstance(section, dict) or name not in section:
        return section, False
    if parents:
        inner, changed = _renamed(section[name], parents[1:], key, new)
        return ({**section, name: inner}, True) if changed else (section, False)
    new_key = new.rpartition(".")[2]
    if new_key in section:
        raise ValueError(f"'{key}' is the old name of '{new}', which is set as well: drop '{key}'")
    return {new_key if each == key else each: value for each, value in section.items()}, True
