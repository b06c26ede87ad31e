"""equipoise prepare: reads the tables, writes the prepared folder and its token ids, and says what is in it."""

from rich.console import Console
from rich.table import Table

from equipoise.common.progress import ProgressBar
from equipoise.configs.schema import RunConfig
from equipoise.data.labels import labels_of
from equipoise.data.manifest import Manifest
from equipoise.data.prepare.masked import mask_all_fields
from equipoise.data.prepare.slates import prepare


def prepare_data(config: RunConfig) -> Manifest:
    """Prepare `config.data.folder` and print its counts, notes and dropped rows; then tokenise it.

    Returns:
        What the folder holds: counts, label rates and hashes.

    Raises:
        UserError: bad input, or a backbone whose tokenizer cannot be loaded (the slates are complete then).
    """
    labels = labels_of(config.objectives)
    with ProgressBar("preparing") as bar:
        manifest = prepare(config.data, bar.stage, labels)
    out = Console()
    out.print(_counts(manifest, f"prepared {config.data.folder}"))
    for reason, rows in manifest.dropped.items():
        out.print(f"left out: {rows:,} {reason}", highlight=False, soft_wrap=True)
    for note in manifest.notes:
        out.print(f"note: {note}", highlight=False, soft_wrap=True)
    from equipoise.launch.token_cache import write_tokens as tokenize  # transformers loads only now

    tokenize(config)
    if config.train.feature_dropout:
        masked = mask_all_fields(config.data)
        out.print(
            f"train.feature_dropout: the same requests, as of anonymous users, in {masked.folder}", highlight=False
        )
        prepare(masked, labels=labels)
        tokenize(config.model_copy(update={"data": masked}))
    return manifest


def _counts(manifest: Manifest, title: str) -> Table:
    """The counts of every split, one column each."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in manifest.splits:
        table.add_column(name, justify="right", no_wrap=True)
    splits = list(manifest.splits.values())
    for name in ("requests", "slates", "impressions", "clicks", "conversions"):
        table.add_row(name, *(f"{getattr(split, name):,}" for split in splits))
    table.add_row("click rate", *(f"{split.click_rate:.2%}" for split in splits))
    table.add_row("conversion rate", *(f"{split.conversion_rate:.2%}" for split in splits))
    table.add_row("first request", *(split.first[:10] for split in splits))
    table.add_row("last request", *(split.last[:10] for split in splits))
    return table
