"""Tokens of servers, which come from the environment or a file and never from the command line."""

import os
from pathlib import Path

from equipoise.common.errors import UserError


def read_token(variable: str | None, file: Path | None) -> str | None:
    """The bearer token, or None where none is asked for.

    Raises:
        UserError: it is empty, unreadable, or not of printable ASCII characters, as headers are.
    """
    if variable is None and file is None:
        return None
    if variable is not None and file is not None:
        raise UserError("--token-env and --token-file name the token twice: give one of them")
    source = f"--token-env {variable}" if variable is not None else f"--token-file {file}"
    try:
        token = os.environ.get(variable, "") if variable is not None else (file or Path()).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{source} cannot be read as text: name a file with the token in it") from error
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(f"{source} holds no token: it needs ASCII characters without spaces")
    return token
