"""Settings of a config are exchanged for values that mean nothing good; each is refused in a sentence or taken."""

import copy
import math
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from equipoise.common.errors import UserError
from equipoise.configs.load import load_config
from equipoise.launch.validate import refuse_what_cannot_run

BAD: tuple[Any, ...] = (
    *(None, "", " ", "\x1b[31m", "{", "[/bold]", "a" * 5000, "/", "..", "s3://bucket/x", "torchjd:Nothing"),
    *(-1, 0, 10**30, -0.0, 1e-320, math.inf, math.nan, True, [], [None], {}, {"x": {"y": []}}, "\u202etxt", "null\x00"),
)


def leaves(settings: Any, where: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The places of all settings, sections included."""
    if where:
        yield where
    if isinstance(settings, dict):
        for key, value in settings.items():
            yield from leaves(value, (*where, key))


def changed(settings: dict[str, Any], where: tuple[str, ...], value: Any) -> dict[str, Any]:
    """The settings with another value in one place."""
    result = copy.deepcopy(settings)
    section = result
    for key in where[:-1]:
        section = section[key]
    section[where[-1]] = value
    return result


def try_inputs(config: Path, folder: Path, most: int | None) -> tuple[int, list[str]]:
    """Try bad values of all settings; returns how many, and what ended in a traceback."""
    settings = yaml.safe_load(config.read_text())
    tried, broken = 0, []
    cases = [(where, value) for where in leaves(settings) for value in BAD]
    step = 1 if most is None else max(len(cases) // most, 1)
    for where, value in cases[::step]:
        path = folder / "bad.yaml"
        path.write_text(yaml.safe_dump(changed(settings, where, value), allow_unicode=True))
        tried += 1
        try:
            refuse_what_cannot_run(load_config(path))
        except UserError as error:
            if not str(error).strip():
                broken.append(f"{'.'.join(where)}={value!r}: no sentence")
        except Exception:  # a bug: whatever it is, a user should not see it
            broken.append(f"{'.'.join(where)}={value!r}: {traceback.format_exc().splitlines()[-1]}")
    return tried, broken
