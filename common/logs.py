"""Messages: the package logs them under `equipoise.…`, and the command line shows them."""

import logging
import os
import sys
from typing import Any

from equipoise.common.library_noise import leave_out_noise
from equipoise.common.plain_text import without_controls

PACKAGE = "equipoise"


class Rendered(str):
    """A table as text: its colours are ours, and its cells hold no control characters."""


class MessageHandler(logging.Handler):
    """Prints each message as it is: warnings on stderr, the others on stdout."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message, above a progress bar where one is shown."""
        try:
            # Looked up anew, for a progress bar stands in for sys.stdout as long as it is shown.
            stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
            text = self.format(record)
            stream.write((text if isinstance(record.msg, Rendered) else without_controls(text)) + "\n")
            stream.flush()
        except Exception:
            self.handleError(record)


def show_messages() -> None:
    """Show what the package logs from now on, and leave out libraries' noise.

    Of several processes, the first one alone speaks, warnings apart.
    """
    leave_out_noise()
    logger = logging.getLogger(PACKAGE)
    if not any(isinstance(handler, MessageHandler) for handler in logger.handlers):
        logger.addHandler(MessageHandler())
    logger.setLevel(logging.WARNING if int(os.environ.get("RANK", "0")) else logging.INFO)


def rendered(table: Any) -> str:
    """A table as a message, as wide and as colourful as the terminal allows; a sentence as it is."""
    if isinstance(table, str):
        return table  # the handler takes its control characters away
    from equipoise.common.console import new_console  # late, so that a command without tables starts at once

    console = new_console()
    with console.capture() as captured:
        console.print(table)
    return Rendered(captured.get().rstrip("\n"))
