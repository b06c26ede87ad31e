"""Messages: the package logs them under `equipoise.…`, and the command line shows them."""

import logging
import os
import sys
from typing import Any

PACKAGE = "equipoise"


class MessageHandler(logging.Handler):
    """Prints each message as it is: warnings on stderr, the others on stdout."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message, above a progress bar where one is shown."""
        try:
            # Looked up anew, for a progress bar stands in for sys.stdout as long as it is shown.
            stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
            stream.write(self.format(record) + "\n")
            stream.flush()
        except Exception:
            self.handleError(record)


def show_messages() -> None:
    """Show what the package logs from now on; of several processes, the first one alone speaks, warnings apart."""
    logger = logging.getLogger(PACKAGE)
    if not any(isinstance(handler, MessageHandler) for handler in logger.handlers):
        logger.addHandler(MessageHandler())
    logger.setLevel(logging.WARNING if int(os.environ.get("RANK", "0")) else logging.INFO)


def rendered(table: Any) -> str:
    """A table as a message, as wide and as colourful as the terminal allows; a sentence as it is."""
    if isinstance(table, str):
        return table
    from equipoise.common.console import new_console  # late, so that a command without tables starts at once

    console = new_console()
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip("\n")
