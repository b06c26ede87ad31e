"""equipoise prepare: reads the tables, writes the prepared folder, and says what is in it."""

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from configs.schema import RunConfig
from data.manifest import Manifest
from data.slates import prepare


def run(config: RunConfig) -> None:
    """Prepare `config.data.folder` and print its counts, notes and dropped rows. Raises UserError for bad input."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("preparing", total=1.0)
        manifest = prepare(config.data, lambda stage, share: bar.update(task, description=stage, completed=share))
    out = Console()
    out.print(_counts(manifest, f"prepared {config.data.folder}"))
    for reason, rows in manifest.dropped.items():
        out.print(f"left out: {rows:,} {reason}", highlight=False)
    for note in manifest.notes:
        out.print(f"note: {note}", highlight=False)


def _counts(manifest: Manifest, title: str) -> Table:
    """The counts of every split as a table of text."""
    table = Table(title=title, title_justify="left")
    table.add_column("split")
    for name in ("requests", "slates", "impressions", "clicks", "conversions", "from", "to"):
        table.add_column(name, justify="right")
    for name, split in manifest.splits.items():
        rate = split.clicks / split.impressions
        table.add_row(
            name,
            f"{split.requests:,}",
            f"{split.slates:,}",
            f"{split.impressions:,}",
            f"{split.clicks:,} ({rate:.1%})",
            f"{split.conversions:,} ({split.conversions / split.impressions:.2%})",
            split.first[:10],
            split.last[:10],
        )
    return table
