"""A comparison as Markdown and as CSV, each written whole or not at all."""

import csv
from pathlib import Path

from equipoise.common.atomic import atomic_write
from equipoise.evaluation.compare.comparison import Comparison
from equipoise.evaluation.compare.table import Cell, csv_rows, tables


def write_markdown(comparison: Comparison, path: Path) -> None:
    """The tables as Markdown; the best of a column is bold."""
    parts = []
    for table in tables(comparison):
        lines = [f"## {_escaped(table.title)}", "", _line([_escaped(head) for head in table.columns])]
        lines.append("| --- |" + " ---: |" * (len(table.columns) - 1))
        lines += [_line([_marked(cell) for cell in row]) for row in table.rows]
        parts.append("\n".join([*lines, *(f"\n{_escaped(sentence)}" for sentence in table.foot)]))
    if comparison.notes:
        parts.append("## Notes\n\n" + "\n".join(f"- {_escaped(note)}" for note in comparison.notes))
    with atomic_write(path) as partial:
        partial.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def write_csv(comparison: Comparison, path: Path) -> None:
    """One row per pool, all metrics unless some were asked for; numbers as they are, empty where there is none."""
    head, rows = csv_rows(comparison, every=not comparison.question.metrics)
    with atomic_write(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(rows)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _marked(cell: Cell) -> str:
    text = _escaped(cell.text)
    return f"**{text}**" if cell.best else text


def _escaped(text: str) -> str:
    for sign in "\\|*_<`":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())
