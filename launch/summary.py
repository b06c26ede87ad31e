"""The table at the end of `make demo`: what was reached, beside what was to be beaten, and where everything lies."""

import json
import sys
from pathlib import Path

from rich.table import Table

from equipoise.common.console import new_console, new_table
from equipoise.evaluation.rivals import judgement

TARGETS = {"ctr": "click", "ctcvr": "click and conversion"}


def closing_table(evaluation: dict) -> Table:
    """AUC and GAUC of the run beside the best trivial baseline, per target."""
    table = Table(title="what was reached (the same test impressions for all)", title_justify="left")
    for column in ("target", "metric", "ours", "best baseline", "", "difference"):
        table.add_column(column, justify="right" if column in ("ours", "difference") else "left")
    for target, label in TARGETS.items():
        for metric, row in evaluation["against_baseline"].get(target, {}).items():
            if row is None:  # one class only, or no baseline
                continue
            value, baseline = f"{row['ours']:.3f}", f"{row['theirs']:.3f}"
            table.add_row(label, metric.upper(), value, row["baseline"], baseline, f"{row['difference']:+.3f}")
    return table


def rivals_table(evaluation: dict) -> Table | None:
    """The run beside its prior, trees, logistic regression, popularity and bought-before; None without any."""
    columns = ("target", "metric", "against"), ("ours", "theirs", "difference", "95 % interval", "")
    table = new_table("beside what a shop would use instead (the same test impressions for all)", *columns)
    for target, rivals in evaluation.get("comparisons", {}).items():
        for name, metrics in rivals.items():
            for metric, row in metrics.items():
                if row["difference"] is None:
                    continue
                low, high = row.get("difference_interval") or (None, None)
                between = "" if low is None else f"{low:+.4f} to {high:+.4f}"
                numbers = (f"{row['ours']:.4f}", f"{row['theirs']:.4f}", f"{row['difference']:+.4f}")
                words = (TARGETS.get(target, target), metric.upper(), name)
                table.add_row(*words, *numbers, between, judgement(metric, row))
    return table if table.row_count else None


def main(run: Path, export: Path) -> None:
    """Print the table and the places."""
    console = new_console()
    evaluation = json.loads((run / "evaluation_test.json").read_text())
    summary = json.loads((run / "summary.json").read_text())
    console.print(closing_table(evaluation))
    rivals = rivals_table(evaluation)
    if rivals is not None:
        console.print(rivals)
    console.print(
        f"{evaluation['rows']:,} impressions of {evaluation['requests']:,} test requests; "
        f"{summary['steps']} steps in {summary['seconds']:.0f} s on {summary['processes']} processes"
    )
    places = {
        "config": run / "config.yaml",
        "metrics over time": run / "metrics.jsonl",
        "evaluation": run / "evaluation_test.json",
        "scores": run / "scores_test.parquet",
        "adapters": run / "adapters",
        "export, one folder per objective": export,
    }
    for name, path in places.items():
        console.print(f"  {name}: {path}", soft_wrap=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
