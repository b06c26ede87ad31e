"""equipoise preview: what was prepared, at a glance, before anything is trained on it (docs/your_tables.md)."""

from rich.markup import escape

from equipoise.common.console import new_console, new_table
from equipoise.configs.schema import RunConfig
from equipoise.data.manifest import SPLITS, Manifest
from equipoise.data.preview import ColumnSummary, Example, Preview, preview

MOST_COLUMNS = 40


def show_preview(config: RunConfig, examples: int = 3) -> Preview:
    """Print prompts with their tokens, histories, label rates, columns, what was left out and what looks wrong.

    Raises:
        UserError: the folder is not prepared, or the tokenizer cannot be loaded.
    """
    from equipoise.modeling.base_config import load_tokenizer

    found = preview(config.data.folder, examples)
    console = new_console()
    tokenizer = load_tokenizer(config.backbone)
    for number, example in enumerate(found.examples, 1):
        console.print(f"[bold]prompt {number}[/bold] (request {escape(example.request_id)})")
        for line in _prompt(example, tokenizer):
            console.print(f"  {escape(line)}", soft_wrap=True, highlight=False)
    console.print(_rates(found.manifest))
    if found.histories:
        shares = ", ".join(f"{split} {share:.0%}" for split, share in found.histories.items())
        console.print(f"requests with a history: {shares}", soft_wrap=True, highlight=False)
    if found.columns:
        console.print(_columns(found.columns[:MOST_COLUMNS]))
    for line in summary_lines(found):
        console.print(escape(line), soft_wrap=True, highlight=False)
    return found


def summary_lines(found: Preview) -> list[str]:
    """What was left out, notes and warnings, a line each."""
    left_out = [f"left out: {rows:,} {reason}" for reason, rows in found.manifest.dropped.items()]
    notes = [f"note: {note}" for note in found.manifest.notes]
    return [*left_out, *notes, *(f"warning: {warning}" for warning in found.warnings)]


def _prompt(example: Example, tokenizer: object) -> list[str]:
    def tokens(text: str) -> list[str]:
        return tokenizer.tokenize(text)  # type: ignore[attr-defined]

    prefix = tokens(example.prefix)
    lines = [f"prefix ({len(prefix)} tokens): {example.prefix or '(empty)'}", f"  {' '.join(prefix)}"]
    for text, context, click, conversion in example.candidates:
        whole = ", ".join(part for part in (text, context) if part)
        pieces = tokens(whole)
        lines.append(f"candidate ({len(pieces)} tokens; click {click}, conversion {conversion}): {whole}")
        lines.append(f"  {' '.join(pieces)}")
    if example.shown > len(example.candidates):
        lines.append(f"and {example.shown - len(example.candidates)} more candidates")
    return lines


def _rates(manifest: Manifest) -> object:
    table = new_table("label rates", [""], list(SPLITS))
    splits = [manifest.splits[name] for name in SPLITS]
    table.add_row("requests", *(f"{split.requests:,}" for split in splits))
    for label in ("click", "conversion"):
        if label not in manifest.absent_labels:
            table.add_row(f"{label} rate", *(f"{getattr(split, f'{label}_rate'):.2%}" for split in splits))
    return table


def _columns(columns: list[ColumnSummary]) -> object:
    table = new_table("columns", ["column", "of"], ["missing", "min", "median", "max", "most frequent"])
    for column in columns:
        span = ["" if value is None else f"{value:.4g}" for value in (column.low, column.median, column.high)]
        frequent = "" if column.frequent is None else f"{escape(column.frequent[:24])} ({column.share:.0%})"
        table.add_row(escape(column.name), column.table, f"{column.missing:.0%}", *span, frequent)
    return table
