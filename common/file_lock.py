"""A file that one process holds, however it ends, and that says who does."""

import fcntl
import os
import socket
from pathlib import Path
from typing import IO


class Held(Exception):
    """Another process holds the file; the message says which."""


def hold(path: Path) -> IO[str]:
    """The file, opened and held until it is closed; a process that dies lets go of it.

    Raises:
        Held: another process holds it.
    """
    handle = path.open("a+")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        handle.seek(0)
        holder = handle.read().strip() or "another process"
        handle.close()
        raise Held(holder) from error
    handle.truncate(0)
    handle.write(f"process {os.getpid()} on {socket.gethostname()}")
    handle.flush()
    return handle
