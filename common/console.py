"""How every command prints: one console and one style of tables."""

import os
import sys
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

FILE_WIDTH = 10_000
"""Columns where the output is a file or a pipe: no table is cut there, and no sentence is broken."""


def new_console(*, quiet: bool = False, soft_wrap: bool = False) -> Console:
    """The console of a command, on stdout: as wide as the terminal (or COLUMNS) says, in a file as wide as need be.

    Args:
        quiet: print nothing, as all processes but the first.
        soft_wrap: never break a line, so that the terminal does.
    """
    wide = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else FILE_WIDTH
    return Console(highlight=False, quiet=quiet, soft_wrap=soft_wrap, width=wide)


def new_table(title: str | None, texts: Sequence[str] = (), numbers: Sequence[str] = ()) -> Table:
    """An empty table.

    Args:
        title: over it, as it is: brackets are no markup.
        texts: heads of the first columns, whose cells are folded where the terminal is narrow.
        numbers: heads of the others, to the right, each cell in one line.
    """
    shown = escape(title) if title is not None else None
    table = Table(title=shown, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for head in texts:
        table.add_column(escape(head), overflow="fold")
    for head in numbers:
        table.add_column(escape(head), justify="right", no_wrap=True)
    return table
