"""The one progress bar of all commands."""

from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from equipoise.common.console import PlainConsole


class ProgressBar:
    """A bar on the terminal while its `with` block runs, with a line for each stage of work.

    Args:
        title: of the first line; none is shown yet where it is empty.
        total: units of work of the first line.
        unit: what is counted, such as "requests"; None: the line is a fraction of 1 and shows percents.
        extra: a further column, such as "{rate} impressions/s", whose fields `update` gives.
        console: standard error by default.
        transient: whether the bar vanishes at the end.
        disable: whether nothing is shown.
    """

    def __init__(
        self,
        title: str = "",
        total: float = 1.0,
        unit: str | None = None,
        *,
        extra: str = "",
        console: Console | None = None,
        transient: bool = True,
        disable: bool = False,
    ) -> None:
        columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False), BarColumn()]
        if unit is None:
            columns += [TaskProgressColumn(), TimeElapsedColumn()]
        else:
            more = extra.replace("{", "{task.fields[").replace("}", "]}")
            columns += [
                MofNCompleteColumn(),
                TextColumn(f"{unit}, {more}" if more else unit, markup=False),
                TimeRemainingColumn(),
            ]
        self._bar = Progress(
            *columns, console=console or PlainConsole(stderr=True), transient=transient, disable=disable
        )
        self._lines: dict[str, TaskID] = {}
        if title:
            self.add(title, total)

    def add(self, title: str, total: float, **fields: Any) -> None:
        """Another line, unless it is there already; `fields`: of the extra column."""
        if title not in self._lines:
            self._lines[title] = self._bar.add_task(title, total=total, **fields)

    def advance(self, units: float = 1, title: str | None = None) -> None:
        """Some more of a line is done; without `title` of the first line."""
        self._bar.advance(self._line(title), units)

    def update(self, done: float, **fields: Any) -> None:
        """How much of the first line is done by now, and fields of the extra column."""
        self._bar.update(self._line(None), completed=done, **fields)

    def stage(self, title: str, fraction: float) -> None:
        """What the first line is called from now on, and which fraction of all stages is done."""
        self._bar.update(self._line(None), description=title, completed=fraction)

    def _line(self, title: str | None) -> TaskID:
        return next(iter(self._lines.values())) if title is None else self._lines[title]

    def __enter__(self) -> "ProgressBar":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()
