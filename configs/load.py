"""Read a run configuration: YAML, then `key.sub=value` overrides, then the schema."""

import difflib
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from configs.errors import UserError
from configs.schema import RunConfig
from configs.whole_file import whole_file


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> RunConfig:
    """The validated configuration in `path` with `overrides` applied.

    Args:
        path: a YAML file; its settings are those of `configs.schema.RunConfig`.
        overrides: `key.sub=value`, the value in YAML (`train.lr=3e-4`, `evaluate.cutoffs=[5,20]`).

    Raises:
        UserError: the file is missing or no YAML mapping, or a setting is unknown or refused; all faults are named.
    """
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: name a config file, such as configs/demo.yaml") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read as YAML ({reason}): correct the file") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path} holds no settings: start it with `name: …`")
    for override in overrides:
        _apply(raw, override)
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{path}: " + "; ".join(_explain(fault) for fault in error.errors())) from error


def save_config(config: RunConfig, path: Path) -> None:
    """Write the fully resolved configuration, under a temporary name first."""
    with whole_file(path) as partial:
        partial.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def read_run_config(run: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration saved in a run folder.

    Raises:
        UserError: the folder holds no run.
    """
    path = run / "config.yaml"
    if not path.is_file():
        raise UserError(f"{run} holds no run ({path.name} is missing): name the folder that `equipoise train` wrote")
    return load_config(path, overrides)


def _apply(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"override '{override}' is not of the form key.sub=value: write for example train.lr=3e-4")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"override '{override}': the value is no YAML: quote it") from error
    if isinstance(value, str):
        value = _number(value)
    section = raw
    *parents, last = key.split(".")
    for parent in parents:
        if section.get(parent) is None:
            section[parent] = {}
        section = section[parent]
        if not isinstance(section, dict):
            raise UserError(f"override '{override}': '{parent}' is a value, not a section: shorten the key")
    section[last] = value


def _number(text: str) -> str | float:
    # YAML 1.1 reads 3e-4 as a string.
    try:
        return float(text)
    except ValueError:
        return text


def _explain(fault: Any) -> str:
    """One fault of the schema as a clause that names the key and the way out."""
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = _fields_at(fault["loc"][:-1])
        near = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1, cutoff=0.0)
        return f"unknown key '{place}': did you mean '{near[0]}'?" if near else f"unknown key '{place}': remove it"
    if fault["type"] == "missing":
        return f"key '{place}' is missing: add it"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "value_error":
        return f"{place}: {message}" if place else message
    message = message[0].lower() + message[1:]
    return f"key '{place}': {message}, not {fault['input']!r}"


def _fields_at(location: Sequence[int | str]) -> list[str]:
    """Names of the settings of the section at `location`."""
    model: type[BaseModel] = RunConfig
    for part in location:
        field = model.model_fields.get(str(part))
        section = _section(field.annotation) if field is not None else None
        if section is None:
            return []
        model = section
    return list(model.model_fields)


def _section(annotation: Any) -> type[BaseModel] | None:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return next((found for a in typing.get_args(annotation) if (found := _section(a))), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
