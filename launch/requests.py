"""equipoise requests: users and candidates become a file of requests (docs/your_tables.md)."""

from datetime import UTC, datetime
from pathlib import Path

import typer

from equipoise.common.errors import UserError
from equipoise.configs.schema import RunConfig
from equipoise.data.requests.build import build_requests


def make_requests(config: RunConfig, users: Path, candidates: Path, at: str, out: Path, overwrite: bool) -> None:
    """Write the requests of all users at a moment, and say how many have a history.

    Raises:
        UserError: a file or column is missing, the moment cannot be read, or `out` exists.
    """
    if out.exists() and not overwrite:
        raise UserError(f"{out} exists: name another file or add --overwrite")
    try:
        moment = datetime.now(UTC) if at == "now" else datetime.fromisoformat(at)
    except ValueError as error:
        raise UserError(f"--at {at} is no moment: write now, or ISO 8601 such as 2026-05-01T13:30") from error
    built = build_requests(config.data, users, candidates, moment, out)
    typer.echo(
        f"{out}: {built.requests:,} requests with {built.candidates:,} candidates; "
        f"{built.with_history:,} have a history"
    )
    for note in built.notes:
        typer.echo(f"note: {note}")
    if not built.with_history and config.data.tables is not None and config.data.tables.events is not None:
        typer.echo("note: no user has an event before the moment: check --at and how user_id is written")
