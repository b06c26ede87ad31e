"""Commands about settings: check them, explain them, and write a template, a page or a schema of them."""

import difflib
import json
from pathlib import Path
from typing import Annotated

import typer

from equipoise.common.errors import UserError
from equipoise.launch.parameters import ConfigArgument, Overrides

OutFile = Annotated[Path | None, typer.Option(help="File to write.", show_default="standard output")]


def validate(config: ConfigArgument, overrides: Overrides = None) -> None:
    """Check a run configuration, and the columns of its tables where they are here; needs no GPU, loads no model."""
    from equipoise.configs.load import load_config
    from equipoise.launch.validate import refuse_what_cannot_run

    loaded = load_config(config, overrides or [])
    for note in refuse_what_cannot_run(loaded):
        typer.echo(f"note: {note}")
    typer.echo(f"{config} is valid: run '{loaded.name}', objectives {', '.join(loaded.objectives.active())}")


def init(
    tables: Annotated[
        list[str] | None,
        typer.Argument(
            help="Tables: impressions, items and, where you have them, users and events, in any order and language. "
            "None: write a template to --out (FILE.yaml stands for --out FILE.yaml).",
            metavar="TABLES…",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("run.yaml"),
    name: Annotated[str | None, typer.Option(help="Name of the run.", show_default="the file's")] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="How a column is written where that is unclear: TABLE.COLUMN=FORMAT."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing; refuse what is unclear.")] = False,
    backbone: Annotated[
        str | None, typer.Option(help="Path, package or hub id of the language model.", show_default="MiniLM")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Of the training.", min=1, show_default="two passes of small tables, 400 at most"),
    ] = None,
) -> None:
    """Look at your tables and write a run configuration that runs; without tables, a template of every setting."""
    if tables and not (len(tables) == 1 and tables[0].endswith((".yaml", ".yml"))):
        from equipoise.launch.init import BACKBONE, write_config

        write_config(tables, out, name, formats or [], yes, backbone or BACKBONE, steps)
        return
    from equipoise.launch.describe_settings import template

    file = Path(tables[0]) if tables else out
    if file.exists():
        raise UserError(f"{file} exists: name another file, or remove it")
    _write(template(), file)
    typer.echo(f"{file}: put the paths of your tables in, then run `equipoise validate {file}`")


def docs(out: OutFile = None) -> None:
    """Write the page of all settings, docs/configuration.md."""
    from equipoise.launch.describe_settings import page

    _write(page(), out)


def schema(
    of: Annotated[str, typer.Option(help="run, sweep or campaign.")] = "run",
    out: OutFile = None,
) -> None:
    """Write a JSON schema, with which editors complete and check YAML files."""
    from equipoise.launch.describe_settings import files

    models = {word or "run": model for word, model in files().items()}
    if of not in models:
        raise UserError(f"--of {of}: there is no such file: name one of {', '.join(models)}")
    text = json.dumps(models[of].model_json_schema(mode="validation"), indent=1, ensure_ascii=False)
    _write(text + "\n", out)


def explain(key: Annotated[str, typer.Argument(help="Such as train.lr, data or sweep.grid.", metavar="KEY")]) -> None:
    """Say what a setting is: type, range, default; of a section, which settings it has."""
    from equipoise.configs.renamed import RENAMED
    from equipoise.launch.describe_settings import all_settings

    settings = all_settings()
    if key in RENAMED:
        typer.echo(f"'{key}' is now called '{RENAMED[key]}'")
        key = RENAMED[key]
    known = settings.get(key, [])
    inner = [one for name in settings for one in settings[name] if name.rpartition(".")[0] == key]
    if not known and not inner:
        near = difflib.get_close_matches(key, settings, n=3, cutoff=0.0)
        raise UserError(f"there is no setting '{key}': the nearest are {', '.join(near)}")
    for one in known:
        typer.echo(str(one))
    for one in inner:
        typer.echo(f"  {one.key}: {one.description}")


def _write(text: str, out: Path | None) -> None:
    if out is None:
        typer.echo(text, nl=False)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, "utf-8")


COMMANDS = (validate, init)
CONFIG_COMMANDS = (docs, schema, explain)
