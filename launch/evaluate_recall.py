"""What `equipoise evaluate` says of a run's recall objective: `recall_SPLIT.json` and a table beside the baselines."""

from typing import Any

from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from data.slate_set import SlateSet
from launch.split_scores import SplitScores
from train.recall.evaluate import CUTOFFS, evaluate_recall
from train.report import winner, write_json

TITLES = {"all": "all", "new": "never bought"}


def measure_recall(scores: SplitScores, split: str, console: Console) -> dict[str, Any]:
    """Measure, write `recall_SPLIT.json` into the run folder, and print.

    Args:
        scores: of the run, with its model.
        split: its name.
        console: to print on.

    Raises:
        UserError: the split does not fit the run, or a package is missing.
    """
    folder, tokens = scores.config.data.folder, scores.tokens
    train, slates = SlateSet(folder, "train", tokens), SlateSet(folder, split, tokens)
    with Progress(console=console) as bar:
        tasks: dict[str, Any] = {}

        def tell(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.advance(tasks[stage], done)

        report = evaluate_recall(scores.config, scores.model, train, slates, tell)
    path = scores.run / f"recall_{split}.json"
    write_json(report, path)
    console.print(shown(report))
    console.print("\n".join(sentences(report)))
    console.print(f"recall: {path}", soft_wrap=True)
    return report


def shown(report: dict[str, Any]) -> Table:
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


def sentences(report: dict[str, Any]) -> list[str]:
    """Ours against the best baseline at the largest cutoff, for all items and for new ones."""
    said = []
    for which, title in TITLES.items():
        found = report["against_best"][which]
        low, high = found["interval"]
        said.append(
            f"recall@{max(CUTOFFS)}, {title}: {found['difference']:+.3f} against {found['baseline']} "
            f"(95% interval {low:+.3f} to {high:+.3f}): {winner(low, high)}"
        )
    return said
