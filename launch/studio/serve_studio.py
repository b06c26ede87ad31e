"""`equipoise studio`: serves the page of one folder on this machine, until it is stopped. Runs go on without it."""

import secrets
from pathlib import Path

from equipoise.common.console import new_console
from equipoise.common.errors import UserError
from equipoise.launch.studio.workspace import OWN
from equipoise.serving.server.options import ServerOptions

try:
    from equipoise.launch.studio.app import create_studio
    from equipoise.serving.server.uvicorn_server import listen, serve
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("fastapi", "uvicorn", "starlette", "h11"):
        raise
    raise UserError(f"the studio needs {error.name}: pip install 'equipoise[studio]'") from error

HOST = "127.0.0.1"


def serve_studio(folder: Path, port: int, known: frozenset[str]) -> None:
    """Serve the studio of a folder until SIGTERM or Ctrl-C.

    Args:
        folder: the workspace: tables, configs and runs in it are shown, and all that is made goes there.
        port: 0 takes a free one.
        known: names of the commands that this installation has.

    Raises:
        UserError: the folder does not exist, or the port is taken.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: name the one that your tables are in")
    listener = listen(HOST, port)
    token = read_token(folder / OWN)
    app = create_studio(folder, token, known)
    console = new_console(soft_wrap=True)

    def ready(address: str) -> None:
        console.print(f"studio of {folder.resolve()}: {address}/?token={token}", markup=False, highlight=False)
        console.print("Ctrl-C ends the page; what it has started goes on")

    serve(app, listener, ServerOptions(port=port), ready)


def read_token(folder: Path) -> str:
    """The token of a workspace, kept so that an open page finds the studio again after a restart."""
    folder.mkdir(exist_ok=True)
    path = folder / "token"
    try:
        token = path.read_text("utf-8").strip()
    except FileNotFoundError:
        token = ""
    if len(token) < 20:
        token = secrets.token_urlsafe(24)
        path.touch(mode=0o600)
        path.write_text(token + "\n", "utf-8")
    path.chmod(0o600)
    return token
