"""Each option stands once, next to what reads it; the commands show them all, with their defaults and help."""

import inspect
import typing
from pathlib import Path
from typing import Any

import typer.main

from equipoise.launch.cli import app

SNAPSHOT = Path(__file__).with_name("command_options.txt")
"""A line per parameter. After an intended change: `python -m tests.launch.test_command_options`, and read the diff."""


def _line(command: str, parameter: Any, annotation: Any) -> str:
    kind = typing.get_args(annotation)[0]
    default = str(parameter.default) if isinstance(parameter.default, Path) else parameter.default
    shown = parameter.show_default if isinstance(parameter.show_default, str) else ""
    bounds = [bound for name in ("min", "max") if (bound := getattr(parameter, name, None)) is not None]
    return " | ".join(
        [
            f"{command} {parameter.metavar or '/'.join([*parameter.opts, *parameter.secondary_opts])}",
            kind.__name__ if isinstance(kind, type) else str(kind),
            "required" if parameter.required else f"{default!r}",
            *([f"shown as {shown}"] if shown else []),
            *([f"bounds {bounds}"] if bounds else []),
            str(parameter.help),
        ]
    )


def command_options() -> list[str]:
    """A line per parameter: arguments in their order, then options by name."""
    group: Any = typer.main.get_command(app)
    lines: list[str] = []
    commands = dict(group.commands)
    for inner in ("config", "rates"):
        commands |= {f"{inner} {name}": command for name, command in commands.pop(inner).commands.items()}
    for name, command in sorted(commands.items()):
        signature = inspect.signature(command.callback).parameters
        shown = [(p.param_type_name, _line(name, p, signature[p.name].annotation)) for p in command.params]
        lines += [line for kind, line in shown if kind == "argument"]
        lines += sorted(line for kind, line in shown if kind == "option")
    return lines


def test_every_command_has_the_options_that_it_is_known_for() -> None:
    assert command_options() == SNAPSHOT.read_text("utf-8").splitlines()


if __name__ == "__main__":
    SNAPSHOT.write_text("\n".join(command_options()) + "\n", "utf-8")
