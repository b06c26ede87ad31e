"""`equipoise compare RUN…`: compare runs from their folders alone, in the terminal, in files and on one page."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table as RichTable
from rich.text import Text

from equipoise.common.console import bold, new_console, new_table
from equipoise.common.errors import UserError
from equipoise.common.logs import rendered
from equipoise.common.progress import ProgressBar
from equipoise.evaluation.compare.comparison import Comparison, compare, kept_for_curves
from equipoise.evaluation.compare.comparison_page import write_page
from equipoise.evaluation.compare.curves import most_points
from equipoise.evaluation.compare.run_records import SPLITS, RunRecord, find_runs, in_group, read_runs
from equipoise.evaluation.compare.tables import Cell, Table, tables, write_csv, write_markdown
from equipoise.evaluation.compare.wandb_runs import read_wandb_runs
from equipoise.evaluation.options import CompareOptions

log = logging.getLogger(__name__)
NO_STAR = "\u00a0"  # rich would strip a plain space, and the digits would not stand in line


def compare_folders(folders: Sequence[Path], options: CompareOptions) -> Comparison:
    """Compare the runs among and below the folders, log the tables and write the files that were asked for.

    Raises:
        UserError: no folder holds a run that can be read, or the question names what no run has.
    """
    split = options.question.split
    if split not in SPLITS:
        raise UserError(f"--split {split}: is no split that is evaluated: write one of {', '.join(SPLITS)}")
    run_folders = find_runs(folders)
    kept = most_points(len(run_folders))
    with ProgressBar("reading runs", len(run_folders), "") as bar:

        def reduce(record: RunRecord) -> RunRecord:
            bar.advance()
            return kept_for_curves(record)

        records, broken = read_runs(run_folders, kept, reduce)
        records += [kept_for_curves(record) for record in read_wandb_runs(options.from_wandb)]
        if options.wandb_project:
            from equipoise.evaluation.compare.wandb_projects import read_wandb_projects  # W&B loads only here

            records += [kept_for_curves(record) for record in read_wandb_projects(options.wandb_project)]
        if options.group is not None:
            records = in_group(records, options.group)
        if not records:
            raise UserError("no run can be read: " + "; ".join(one.reason for one in broken[:3]))
        bar.add("resampling requests", len(records) if options.question.baseline else 0)
        comparison = compare(records, broken, options.question, lambda: bar.advance(title="resampling requests"))
    _log(comparison)
    _write(comparison, options)
    return comparison


def _write(comparison: Comparison, options: CompareOptions) -> None:
    if options.markdown is not None:
        write_markdown(comparison, _ready(options.markdown))
    if options.csv is not None:
        write_csv(comparison, _ready(options.csv))
    if options.html is not None:
        write_page(comparison, _ready(options.html))
    for path in (options.markdown, options.csv, options.html):
        if path is not None:
            log.info(f"written: {path}")
    if options.wandb is not None:
        from equipoise.evaluation.compare.wandb_upload import upload  # W&B loads only here

        log.info(upload(comparison, options.wandb, options.group))
    if options.png is not None:  # last, for without an evaluation there is nothing to draw
        from equipoise.evaluation.compare.charts import draw  # matplotlib loads only here

        draw(comparison, _ready(options.png))
        log.info(f"written: {options.png}")


def _ready(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _log(comparison: Comparison) -> None:
    """The tables, each cut into as many as the width of the terminal asks for, and the notes."""
    width = new_console().width
    for table in tables(comparison):
        for part in _parts(table, width):
            log.info(rendered(_rich(part)))
        for sentence in table.foot:
            log.info(sentence)
        log.info("")
    for note in comparison.notes:
        log.info(f"• {note}")


def _parts(table: Table, width: int) -> list[Table]:
    """The table in parts no wider than the terminal, each with the first column."""
    size = [
        max(_width(head), *(len(row[n].text) + 1 for row in table.rows)) + 2 for n, head in enumerate(table.columns)
    ]
    groups: list[list[int]] = []
    room = -math.inf
    for column in range(1, len(table.columns)):
        if size[column] > room:
            groups.append([])
            room = width - size[0]
        groups[-1].append(column)
        room -= size[column]
    parts = []
    for number, columns in enumerate(groups):
        kept = [0, *columns]
        title = table.title + (f" ({number + 1} of {len(groups)})" if len(groups) > 1 else "")
        rows = tuple(tuple(row[column] for column in kept) for row in table.rows)
        parts.append(Table(title, tuple(table.columns[column] for column in kept), rows))
    return parts


def _rich(table: Table) -> RichTable:
    heads = [_lines(column) for column in table.columns]
    shown = new_table(table.title, heads[:1], heads[1:])
    for row in table.rows:
        shown.add_row(row[0].text, *map(_cell, row[1:]))
    return shown


def _cell(cell: Cell) -> str | Text:
    return bold(f"{cell.text}*") if cell.best else f"{cell.text}{NO_STAR}"


def _lines(head: str) -> str:
    """A head in two lines where it is long."""
    return head.replace(" at ", "\nat ", 1) if " at " in head else head.replace(" ", "\n", 1)


def _width(head: str) -> int:
    return max(map(len, _lines(head).splitlines()))
