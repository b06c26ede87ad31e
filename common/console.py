"""How every command prints: one console and one style of tables. Names are text: no markup, no control characters."""

import os
import sys
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from equipoise.common.plain_text import without_controls

WIDE_PADDING, NARROW_PADDING = (0, 1, 0, 0), (0, 0, 0, 0)
FILE_WIDTH = 10_000
"""Columns where the output is a file or a pipe: no table is cut there, and no sentence is broken."""


class PlainConsole(Console):
    """A console that shows text as it is: brackets are no markup, control characters show as their escapes."""

    def __init__(self, **settings: Any) -> None:
        if "ipykernel" in sys.modules:  # a notebook: rich would ask for ipywidgets there, or move a cursor
            settings = {"force_jupyter": False, "force_terminal": False, **settings}
        super().__init__(markup=False, emoji=False, highlight=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """The text of a sentence or of a cell."""
        return super().render_str(without_controls(text), **settings)


def new_console(*, quiet: bool = False, soft_wrap: bool = False) -> Console:
    """The console of a command, on stdout: as wide as the terminal (or COLUMNS) says, in a file as wide as need be.

    Args:
        quiet: print nothing, as all processes but the first.
        soft_wrap: never break a line, so that the terminal does.
    """
    wide = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else FILE_WIDTH
    return PlainConsole(quiet=quiet, soft_wrap=soft_wrap, width=wide)


def bold(text: str) -> Text:
    """A cell that stands out."""
    return Text(without_controls(text), style="bold")


class PlainTable(Table):
    """A table whose cells are text as it is, whatever console prints it.

    Where the terminal is narrow, columns move together before any cell is folded; the title takes one line where it
    can.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table, as wide as the terminal allows."""
        wide = Measurement.get(console, options.update(max_width=FILE_WIDTH), self).maximum
        self.padding = WIDE_PADDING if wide <= options.max_width else NARROW_PADDING
        title = 0 if self.title is None else cell_len(str(self.title))
        self.min_width = min(title, options.max_width)
        yield from super().__rich_console__(console, options)

    def add_row(self, *cells: Any, **settings: Any) -> None:
        """Another row."""
        super().add_row(*(_text(cell) for cell in cells), **settings)

    def add_column(self, header: Any = "", *more: Any, **settings: Any) -> None:
        """Another column."""
        super().add_column(_text(header), *more, **settings)


def _text(cell: Any) -> Any:
    return Text(without_controls(cell)) if isinstance(cell, str) else cell


def new_table(title: str | None, texts: Sequence[str] = (), numbers: Sequence[str] = ()) -> Table:
    """An empty table.

    Args:
        title: over it.
        texts: heads of the first columns, whose cells are folded where the terminal is narrow.
        numbers: heads of the others, to the right, each cell in one line.
    """
    head = None if title is None else Text(without_controls(title), style="table.title")
    table = PlainTable(title=head, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=WIDE_PADDING)
    for name in texts:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table
