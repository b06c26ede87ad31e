"""Parameters of commands: arguments that several share, and options that are the fields of a dataclass."""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from equipoise.common.options import KEY, Option

ConfigArgument = Annotated[Path, typer.Argument(help="Run configuration (YAML).", metavar="CONFIG")]
RunArgument = Annotated[Path, typer.Argument(help="Run folder that `train` wrote.", metavar="RUN")]
ExportArgument = Annotated[Path, typer.Argument(help="Folder that `export` wrote.", metavar="EXPORT")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Settings to change: key.sub=value.", metavar="KEY=VALUE")]
Adapters = Annotated[
    str | None,
    typer.Option(help="best (of the validations) or last.", show_default="evaluate.adapters of the run"),
]
Set = Annotated[list[str] | None, typer.Option("--set", help="Settings to change: key.sub=value.")]


def with_adapters(overrides: list[str] | None, adapters: str | None) -> list[str]:
    """The overrides, and the choice of --adapters as one of them."""
    return [*(overrides or []), *([f"evaluate.adapters={adapters}"] if adapters is not None else [])]


def with_options(function: Callable[..., None]) -> Callable[..., None]:
    """`function` as typer reads it: each parameter of a dataclass gives way to the dataclass's options.

    Fields without `equipoise.common.options.option` are no options and keep their defaults; fields that are
    dataclasses themselves bring their own options.
    """
    hints = typing.get_type_hints(function, include_extras=True)
    parameters: list[inspect.Parameter] = []
    built: dict[str, type] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if dataclasses.is_dataclass(hints[name]):
            built[name] = typing.cast(type, hints[name])
            parameters += _parameters(built[name])
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name]))

    @functools.wraps(function)
    def command(**values: Any) -> None:
        others = {parameter.name for kind in built.values() for parameter in _parameters(kind)}
        given = {name: value for name, value in values.items() if name not in others}
        function(**given, **{name: _build(kind, values) for name, kind in built.items()})

    shown: Any = command
    shown.__signature__ = inspect.Signature(parameters, return_annotation=None)
    shown.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _parameters(made: type) -> Iterator[inspect.Parameter]:
    hints = typing.get_type_hints(made)
    for field in dataclasses.fields(made):
        about: Option | None = field.metadata.get(KEY)
        if about is not None:
            kind, default = hints[field.name], field.default
            if default == ():
                item = str if about.read else typing.get_args(kind)[0]
                kind, default = (item | None if about.read else list[item] | None), None  # type: ignore[valid-type]
            info = typer.Option(
                *about.flags,
                help=about.help,
                show_default=about.shown or True,
                min=about.lower_bound,
                max=about.upper_bound,
            )
            yield inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info]
            )
        elif dataclasses.is_dataclass(hints[field.name]):
            yield from _parameters(hints[field.name])


def _build(kind: type, values: dict[str, Any]) -> Any:
    """The dataclass `kind` of what the command line gave."""
    hints = typing.get_type_hints(kind)
    given: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        about: Option | None = field.metadata.get(KEY)
        if about is not None:
            value = values[field.name]
            read = about.read or (lambda items: tuple(items or ()))
            given[field.name] = read(value) if field.default == () else value
        elif dataclasses.is_dataclass(hints[field.name]):
            given[field.name] = _build(hints[field.name], values)
    return kind(**given)
