"""The tables of a comparison as plain cells, for the terminal, Markdown and CSV."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from equipoise.common.atomic import atomic_write
from equipoise.evaluation.compare.against_baseline import Change
from equipoise.evaluation.compare.comparison import Comparison
from equipoise.evaluation.compare.differences import written
from equipoise.evaluation.compare.seeds import PooledValue, SeedPool
from equipoise.evaluation.metrics.bootstrap import LEVEL
from equipoise.evaluation.metrics.metric_names import words

ABSENT = "–"
COSTS = {"seconds": "time", "peak_memory_bytes": "peak memory"}


@dataclass(frozen=True)
class Cell:
    """What stands in a cell, and whether it is the best of its column."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A table; the first column names the row, the others are set to the right.

    Attributes:
        title: above it.
        columns: their heads.
        rows: cells, as many as columns.
        foot: sentences below it.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    foot: tuple[str, ...] = ()


def tables(comparison: Comparison) -> list[Table]:
    """Results, settings that differ, changes and fronts; those with nothing to say are left out."""
    parts = [results(comparison)]
    if comparison.settings:
        parts.append(settings(comparison))
    if comparison.changes is not None and comparison.changes.values:
        parts.append(changes(comparison))
    if comparison.fronts is not None:
        parts.append(fronts(comparison))
    return parts


def results(comparison: Comparison) -> Table:
    """One row per pool: metrics as mean ± standard deviation over seeds, Δm and cost."""
    delta = bool(comparison.delta.percent)
    costs = [key for key in COSTS if any(pool.cost(key) for pool in comparison.pools)]
    columns = ["run", "seeds", *map(words, comparison.metrics)]
    columns += ["Δm %"] * delta + [COSTS[key] for key in costs]
    rows = []
    for pool in comparison.pools:
        cells = [Cell(pool.name), Cell(seeds(pool))]
        for metric in comparison.metrics:
            cells.append(Cell(spread(pool.metrics.get(metric)), pool.name in comparison.best[metric]))
        if delta:
            percent = comparison.delta.percent.get(pool.name)
            best = percent is not None and percent == max(comparison.delta.percent.values())
            cells.append(Cell(ABSENT if percent is None else f"{percent:+.2f}", best))
        cells += [Cell(cost(key, pool)) for key in costs]
        rows.append(tuple(cells))
    return Table(f"Results on {comparison.question.split}", tuple(columns), tuple(rows))


def settings(comparison: Comparison) -> Table:
    """One row per pool, one column per setting that differs."""
    keys = list(comparison.settings)
    rows = tuple(
        (Cell(pool.name), *(Cell(written(comparison.settings[key][number])) for key in keys))
        for number, pool in enumerate(comparison.pools)
    )
    return Table("Settings that differ", ("run", *keys), rows)


def changes(comparison: Comparison) -> Table:
    """One row per pool but the baseline: difference, percent and interval of every metric."""
    against = comparison.changes
    assert against is not None
    rows = tuple(
        (Cell(name), *(change_cell(values.get(metric), metric) for metric in against.metrics))
        for name, values in against.values.items()
    )
    resamples = comparison.question.resamples
    note = f"[{LEVEL:.0%} interval over {resamples} resamples of the requests, the same for all runs]; "
    foot = (note + "▲ better, ▼ worse beyond it",) if resamples else ()
    return Table(f"Change against {against.baseline}", ("run", *map(words, against.metrics)), rows, foot)


def change_cell(change: Change | None, metric: str) -> Cell:
    """Such as "+0.0123 (+1.4 %) [+0.0021, +0.0220] ▲"."""
    if change is None:
        return Cell(ABSENT)
    text = f"{change.difference:+.4f}"
    if change.percent is not None:
        text += f" ({change.percent:+.1f} %)"
    if change.interval is not None:
        text += f" [{change.interval[0]:+.4f}, {change.interval[1]:+.4f}]"
    verdict = change.verdict(metric)
    return Cell(f"{text} {'▲' if verdict > 0 else '▼'}" if verdict else text)


def fronts(comparison: Comparison) -> Table:
    """One row per method, the largest hypervolume first."""
    methods = comparison.fronts
    assert methods is not None
    columns = (methods.by, "points", "on its own front", "on the front of all", "hypervolume", "IGD⁺")
    volume, distance = max(f.hypervolume for f in methods.fronts), min(f.igd_plus for f in methods.fronts)
    several = len(methods.fronts) > 1
    rows = tuple(
        (
            Cell(front.method),
            *(Cell(str(count)) for count in (front.points, front.on_own, front.on_common)),
            Cell(f"{front.hypervolume:.4f}", several and front.hypervolume == volume),
            Cell(f"{front.igd_plus:.4f}", several and front.igd_plus == distance),
        )
        for front in methods.fronts
    )
    return Table(f"Fronts of {', '.join(map(words, methods.axes))}", columns, rows, (frame(comparison),))


def frame(comparison: Comparison) -> str:
    """In which frame hypervolume and IGD⁺ are measured."""
    methods = comparison.fronts
    assert methods is not None
    ends = [f"{words(axis)} {low:.4f}" for axis, low in zip(methods.axes, methods.reference, strict=True)]
    return (
        f"hypervolume: share of the box from the reference point ({', '.join(ends)}) to the best values; IGD⁺: "
        "distance to the front of all, in ranges; points are means over seeds, and a method with more points has the "
        "easier task"
    )


def seeds(pool: SeedPool) -> str:
    """How many runs were evaluated, of how many."""
    held, runs = len(pool.evaluated), len(pool.runs)
    return str(runs) if held == runs else f"{held} of {runs}"


def spread(value: PooledValue | None) -> str:
    """Mean ± standard deviation."""
    if value is None:
        return ABSENT
    return f"{value.mean:.4f}" + (f" ±{value.deviation:.4f}" if value.deviation is not None else "")


def cost(key: str, pool: SeedPool) -> str:
    """A cost as people write it, mean over the finished runs."""
    value = pool.cost(key)
    if value is None:
        return ABSENT
    if key == "peak_memory_bytes":
        return f"{value.mean / 2**30:.2f} GiB"
    minutes, rest = divmod(round(value.mean), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes > 90 else f"{minutes} min {rest:02d} s"


def csv_rows(comparison: Comparison, every: bool) -> tuple[list[str], list[list[object]]]:
    """Head and rows of the CSV file: one row per pool, plain numbers, empty where there is none.

    Args:
        comparison: that is written.
        every: whether all metrics are written, not those of the tables alone.
    """
    metrics: Sequence[str] = comparison.all_metrics if every else comparison.metrics
    changes = comparison.changes
    changed = changes.metrics if changes else ()
    head = ["run", "runs", "evaluated", "folders", *(f"config.{key}" for key in comparison.settings)]
    head += [name for metric in metrics for name in (metric, f"{metric} deviation")] + ["delta_m_percent"]
    head += [name for key in COSTS for name in (key, f"{key} deviation")]
    ends = ("change", "change percent", "change low", "change high")
    head += [f"{metric} {end}" for metric in changed for end in ends]
    rows = []
    for place, pool in enumerate(comparison.pools):
        row: list[object] = [pool.name, len(pool.runs), len(pool.evaluated), " ".join(str(r.folder) for r in pool.runs)]
        row += [written(values[place]) for values in comparison.settings.values()]
        row += [number for metric in metrics for number in _two(pool.metrics.get(metric))]
        row.append(comparison.delta.percent.get(pool.name))
        row += [number for key in COSTS for number in _two(pool.cost(key))]
        for metric in changed:
            change = changes.values.get(pool.name, {}).get(metric) if changes else None
            if change is None:
                row += [None] * len(ends)
            else:
                row += [change.difference, change.percent, *(change.interval or (None, None))]
        rows.append(row)
    return head, rows


def _two(value: PooledValue | None) -> tuple[float | None, float | None]:
    return (value.mean, value.deviation) if value else (None, None)


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
