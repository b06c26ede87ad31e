"""Read a run configuration: YAML, then `key.sub=value` overrides, then the schema."""

import copy
import difflib
import logging
import types
import typing
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from equipoise.common.atomic import atomic_write
from equipoise.common.errors import UserError
from equipoise.common.yaml_file import load_yaml, read_yaml
from equipoise.configs.objectives import unknown_objective
from equipoise.configs.renamed import RENAMED, with_new_names
from equipoise.configs.schema import LIST_OF_SECTIONS, ONE_SECTION, RunConfig
from equipoise.configs.tables import MAPPED, ONE_PATH

log = logging.getLogger(__name__)

TAGS = (ONE_SECTION, LIST_OF_SECTIONS, ONE_PATH, MAPPED)
"""Tags of forms of a setting, which are no part of its key."""


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> RunConfig:
    """The validated configuration in `path` with `overrides` applied.

    Args:
        path: a YAML file; its settings are those of `equipoise.configs.schema.RunConfig`.
        overrides: `key.sub=value`, the value in YAML (`train.lr=3e-4`, `evaluate.cutoffs=[5,20]`).

    Raises:
        UserError: the file is missing or no YAML mapping, or a setting is unknown or refused; all faults are named.
    """
    return build_config(read_settings(path), overrides, Path(path))


def read_settings(path: Path | str) -> dict[str, Any]:
    """The settings in a YAML file, before any schema.

    Raises:
        UserError: the file is missing, or no YAML mapping.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist: name a config file, such as configs/demo.yaml")
    return read_yaml(path, "correct the file", "start it with `name: …`")


def build_config(settings: dict[str, Any], overrides: Sequence[str], path: Path) -> RunConfig:
    """The validated configuration of `settings`, which stay as they are, with `overrides` applied.

    Raises:
        UserError: a setting is unknown or refused; all faults are named, and `path` as their place.
    """
    raw = _renamed(copy.deepcopy(settings), path)
    for override in overrides:
        _apply(raw, override)
    try:
        return RunConfig.model_validate(_renamed(raw, path))
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error, RunConfig)}") from error


def _renamed(raw: dict[str, Any], path: Path) -> dict[str, Any]:
    try:
        raw, old_names = with_new_names(raw)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    for old in old_names:
        _warn(old)
    return raw


@lru_cache
def _warn(old: str) -> None:
    log.warning("'%s' is now called '%s': rename it; the next version no longer reads the old name", old, RENAMED[old])


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """All faults that the schema `model` found, as clauses that name the key and the way out."""
    return "; ".join(_explain(fault, model) for fault in error.errors())


def as_override(key: str, value: Any) -> str:
    """The text `key=value` that `load_config` reads back as the same value."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**9)
    return f"{key}={text.removesuffix(chr(10)).removesuffix('...').strip()}"


def read_number(text: str) -> str | float:
    """A number in a form that YAML 1.1 reads as text, such as 3e-4; any other text as it is."""
    try:
        return float(text)
    except ValueError:
        return text


def save_config(config: RunConfig, path: Path) -> None:
    """Write the fully resolved configuration, under a temporary name first."""
    with atomic_write(path) as partial:
        partial.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def read_run_config(run: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration saved in a run folder.

    Raises:
        UserError: the folder holds no run.
    """
    path = run / "config.yaml"
    if not path.is_file():
        raise UserError(f"{run} holds no run ({path.name} is missing): name the folder that `equipoise train` wrote")
    settings = read_settings(path)
    try:
        settings, _ = with_new_names(settings)  # silently, for nobody is to edit what a run has written
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    evaluate = settings.setdefault("evaluate", {})
    if isinstance(evaluate, dict):
        evaluate.setdefault("adapters", "last")  # of a run from before there was a choice
    data = settings.get("data")
    if isinstance(data, dict) and isinstance(prompt := data.setdefault("prompt", {}), dict):
        prompt.setdefault("escape", False)  # of a run from before separators in values were told as another sign
    for name in ("diversity", "fairness", "coverage"):  # of a run from before lists were filled place after place
        options = (settings.get("objectives") or {}).get(name)
        if isinstance(options, dict):
            options.setdefault("form", "parallel")
    return build_config(settings, overrides, path)


def _apply(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"override '{override}' is not of the form key.sub=value: write for example train.lr=3e-4")
    try:
        value = load_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        shown = override if len(override) <= 200 else f"{override[:200]}…"
        raise UserError(
            f"override '{shown}': the value is no YAML ({' '.join(str(error).split())}): quote it"
        ) from error
    if isinstance(value, str) and text.strip()[:1] not in "'\"":
        value = read_number(value)
    if key in RENAMED:
        _warn(key)
        key = RENAMED[key]
    section = raw
    *parents, last = key.split(".")
    for parent in parents:
        if section.get(parent) is None:
            section[parent] = {}
        section = section[parent]
        if not isinstance(section, dict):
            raise UserError(f"override '{override}': '{parent}' is a value, not a section: shorten the key")
    section[last] = value


def _explain(fault: Any, model: type[BaseModel]) -> str:
    """One fault of the schema as a clause that names the key and the way out."""
    fault = {**fault, "loc": tuple(part for part in fault["loc"] if part not in TAGS)}
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = _fields_at(model, fault["loc"][:-1])
        if fault["loc"][:-1] == ("objectives",):
            return unknown_objective(str(fault["loc"][-1]))
        near = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1, cutoff=0.0)
        return f"unknown key '{place}': did you mean '{near[0]}'?" if near else f"unknown key '{place}': remove it"
    if fault["type"] == "missing":
        return f"key '{place}' is missing: add it"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "value_error":
        return f"{place}: {message}" if place else message
    message = message[0].lower() + message[1:]
    return f"key '{place}': {message}, not {fault['input']!r}"


def _fields_at(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """Names of the settings of the section of `model` at `location`."""
    for part in location:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(str(part))
        section = _section(field.annotation) if field is not None else None
        if section is None:
            return []
        model = section
    return list(model.model_fields)


def _section(annotation: Any) -> type[BaseModel] | None:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        return next((found for a in typing.get_args(annotation) if (found := _section(a))), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
