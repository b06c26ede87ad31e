"""What `equipoise evaluate` measures of a run's recall objective, and its table beside the baselines."""

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from equipoise.common.progress import ProgressBar
from equipoise.data.slate_set import SlateSet
from equipoise.evaluation.recall.evaluate import evaluate_recall
from equipoise.evaluation.recall.words import CUTOFFS, TITLES, sentences
from equipoise.evaluation.split_scores import SplitScores


def measure_recall(scores: SplitScores, split: str, console: Console) -> dict[str, Any]:
    """Measure recall on a split; returns the report of `evaluate_recall`.

    Args:
        scores: of the run, with its model.
        split: its name.
        console: shows the progress.

    Raises:
        UserError: the split does not fit the run, or a package is missing.
    """
    folder, tokens = scores.config.data.folder, scores.tokens
    train, slates = SlateSet(folder, "train", tokens), SlateSet(folder, split, tokens)
    with ProgressBar(unit="", console=console, transient=False) as bar:

        def tell(stage: str, done: int, total: int) -> None:
            bar.add(stage, total)
            bar.advance(done, stage)

        return evaluate_recall(scores.config, scores.model, train, slates, tell)


def print_recall(report: dict[str, Any], console: Console) -> None:
    """Print a report of recall: the table and what it says."""
    console.print(_table(report))
    console.print("\n".join(sentences(report)))


def _table(report: dict[str, Any]) -> Table:
    """A line per ranking: recall over all items, and over those that the shopper had never bought."""
    title = f"recall of what {report['shoppers']:,} shoppers took, out of {report['items']:,} items"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for which in TITLES.values():
        for cutoff in CUTOFFS:
            table.add_column(f"{which} @{cutoff}", justify="right")
    for name in report["all"]:
        found = [report[which][name][f"recall{cutoff}"] for which in TITLES for cutoff in CUTOFFS]
        table.add_row(name, *(f"{value:.3f}" for value in found))
    return table
