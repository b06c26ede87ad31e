"""Commands that make data."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from equipoise.data.simulator.settings import SimulatorSettings
from equipoise.launch.parameters import ConfigArgument, Overrides, Set, with_options

if TYPE_CHECKING:
    from equipoise.configs.schema import RunConfig


@with_options
def simulate(
    out: Annotated[Path, typer.Argument(help="Folder to write.", metavar="OUT")],
    settings: SimulatorSettings,
    block: Annotated[int, typer.Option(help="Requests in memory at a time; changes no row.")] = 2_000,
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier simulation.")] = False,
) -> None:
    """Write the tables of a simulated shop, and beside them its true click and purchase probabilities and demand."""
    from equipoise.launch.simulate import write_simulation

    write_simulation(out, settings, block, overwrite)


def prepare(config: ConfigArgument, overrides: Overrides = None) -> None:
    """Turn the tables into slates: validate, split by time, join histories, render, write Parquet and token ids."""
    from equipoise.configs.load import load_config

    loaded = load_config(config, overrides or [])
    from equipoise.train.prepare_run import prepare_data

    prepare_data(loaded)


def preview(
    config: ConfigArgument,
    overrides: Overrides = None,
    prompts: Annotated[int, typer.Option(help="Requests whose prompts are shown.", min=1, max=20)] = 3,
) -> None:
    """Show what was prepared: prompts with their tokens, histories, columns, label rates, and what looks wrong."""
    from equipoise.configs.load import load_config

    loaded = load_config(config, overrides or [])
    from equipoise.launch.preview import show_preview

    show_preview(loaded, prompts)


def tokenize(
    config: ConfigArgument,
    overrides: Overrides = None,
    processes: Annotated[
        int, typer.Option(min=1, max=1024, help="Processes of this machine that tokenise, each on its share of cores.")
    ] = 1,
) -> None:
    """Turn the prepared texts into token ids, once for a backbone and its limits; `prepare` ends with it.

    Started on several machines at once, or by a launcher, the processes share the work; started again after a kill it
    goes on.
    """
    from equipoise.configs.load import load_config

    loaded = load_config(config, overrides or [])
    from equipoise.train.prepare_run import write_tokens

    write_tokens(loaded, processes)


def upload(
    config: ConfigArgument,
    overrides: Overrides = None,
    prune: Annotated[bool, typer.Option(help="Delete files of earlier states there.")] = False,
) -> None:
    """Copy the prepared folder to data.remote, only what is new; `prepare` and `tokenize` end with it."""
    from equipoise.configs.load import load_config

    loaded = load_config(config, overrides or [])
    from equipoise.train.prepare_run import upload as copy

    _refuse_without_remote(loaded)
    copy(loaded, prune)


def download(config: ConfigArgument, overrides: Overrides = None) -> None:
    """Copy what this machine lacks of the prepared folder from data.remote; jobs begin with it where there is none."""
    from equipoise.configs.load import load_config

    loaded = load_config(config, overrides or [])
    from equipoise.train.prepare_run import download as copy

    _refuse_without_remote(loaded)
    copy(loaded)


def _refuse_without_remote(config: "RunConfig") -> None:
    from equipoise.common.errors import UserError

    if config.data.remote is None:
        raise UserError("data.remote says where the copy of the prepared folder is: set it, such as s3://bucket/shop")


def audit(
    config: ConfigArgument,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the page.", show_default="beside the prepared folder")
    ] = None,
) -> None:
    """Look for what is wrong with prepared data: leaks, drift, duplicates, gaps. Exit code 1 where there are errors."""
    from equipoise.configs.load import load_config

    loaded = load_config(config, overrides or [])
    from equipoise.launch.audit import audit_data

    if audit_data(loaded, out):
        raise typer.Exit(1)


def requests(
    config: ConfigArgument,
    users: Annotated[Path, typer.Option(help="Users: user_id, and optionally timestamp, request_id, attributes.")],
    candidates: Annotated[
        Path, typer.Option(help="Candidates: item_id, and optionally user_id, prices and other columns.")
    ],
    out: Annotated[Path, typer.Option(help="File to write: .parquet, .csv or .jsonl.")],
    at: Annotated[str, typer.Option(help="Moment of the requests: now, or ISO 8601 (UTC without an offset).")] = "now",
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier file.")] = False,
    overrides: Set = None,
) -> None:
    """Make the requests that recommend, price, campaign, score and the server read, with histories as in `prepare`."""
    from equipoise.configs.load import load_config

    loaded = load_config(config, overrides or [])
    from equipoise.launch.requests import make_requests

    make_requests(loaded, users, candidates, at, out, overwrite)


COMMANDS = (simulate, prepare, preview, tokenize, upload, download, audit, requests)
