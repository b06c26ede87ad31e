"""The `equipoise` command line; its commands are in `equipoise.launch.commands`, a file per group."""

import os
import sys
import time

import typer

from equipoise.common.errors import UserError
from equipoise.common.logs import show_messages
from equipoise.common.plain_text import without_controls
from equipoise.launch.commands import data, evaluation, exports, settings, studio, training

app = typer.Typer(
    name="equipoise",
    help="Balanced multi-objective LoRA fine-tuning of language models for e-commerce recommendation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    callback=show_messages,
)
for group in (settings, data, training, evaluation, exports, studio):
    for command in group.COMMANDS:
        app.command()(command)
app.command(context_settings={"ignore_unknown_options": True})(training.launch)
config = typer.Typer(
    name="config", help="What settings there are: explained, as a page, as a schema.", no_args_is_help=True
)
for command in settings.CONFIG_COMMANDS:
    config.command()(command)
app.add_typer(config)
rates = typer.Typer(name="rates", help="The state that an export's rates go by.", no_args_is_help=True)
for command in exports.RATES_COMMANDS:
    rates.command()(command)
app.add_typer(rates)


def main(arguments: list[str] | None = None) -> None:
    """Run a command; what the user can mend ends in one sentence on stderr and exit code 2."""
    try:
        app(arguments)
    except UserError as error:
        if int(os.environ.get("RANK", "0")):
            time.sleep(5)  # rank 0 says the same, and the launcher ends us as soon as it has
        typer.secho(without_controls(f"error: {error}"), fg="red", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
