"""The command of the local page."""

from pathlib import Path
from typing import Annotated, Any

import typer


def studio(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Folder of tables, configs and runs.", metavar="FOLDER")] = Path(),
    port: Annotated[int, typer.Option(help="Port on this machine; 0 takes a free one.", min=0, max=65535)] = 7860,
) -> None:
    """Serve one local page: from tables to an export, with runs to watch and to compare."""
    from equipoise.launch.studio.serve_studio import serve_studio

    command_line: Any = context.find_root().command
    serve_studio(folder, port, frozenset(command_line.commands))


COMMANDS = (studio,)
