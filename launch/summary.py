"""The end of `make demo`: what was reached, next to what was to be beaten, what to look at, and what to type next."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from equipoise.common.console import new_console, new_table
from equipoise.evaluation.rivals import judgement
from equipoise.serving.server.options import ServerOptions

TARGETS = {"ctr": "click", "ctcvr": "click and conversion"}


def closing_table(evaluation: dict) -> Table:
    """AUC and GAUC of the run beside the best trivial baseline, per target."""
    numbers = ("ours", "best baseline", "difference")
    table = new_table("what was reached (the same test impressions for all)", ("target", "metric", "baseline"), numbers)
    for target, label in TARGETS.items():
        for metric, row in evaluation["against_baseline"].get(target, {}).items():
            if row is None:  # one class only, or no baseline
                continue
            value, baseline = f"{row['ours']:.3f}", f"{row['theirs']:.3f}"
            table.add_row(label, metric.upper(), row["baseline"], value, baseline, f"{row['difference']:+.3f}")
    return table


def rivals_tables(evaluation: dict) -> Iterator[Table]:
    """Per target the run beside its prior, trees, logistic regression, popularity and bought-before."""
    for target, rivals in evaluation.get("comparisons", {}).items():
        title = f"{TARGETS.get(target, target)}: next to what a shop would use instead"
        table = new_table(title, ("against", "metric"), ("ours", "theirs", "difference", "95 % interval", "is"))
        for name, metrics in rivals.items():
            for metric, row in metrics.items():
                if row["difference"] is None:
                    continue
                low, high = row.get("difference_interval") or (None, None)
                between = "" if low is None else f"{low:+.4f} … {high:+.4f}"
                numbers = (f"{row['ours']:.4f}", f"{row['theirs']:.4f}", f"{row['difference']:+.4f}")
                word = judgement(metric, row).replace("no clear difference", "unclear")
                table.add_row(name, metric.upper(), *numbers, between, word)
        if table.row_count:
            yield table


def front_sentences(record: dict) -> list[str]:
    """What the front was measured on, and what the chosen point gives and costs on the test split."""
    requests = record["valid"]["requests"]
    sentences = [f"{len(record['points'])} trade-offs on {requests} validation requests, drawn in front.png"]
    for choice in record["choices"].values():
        measured = choice.get("test") or choice["valid"]
        parts = [f"{axis} {measured[axis]['relevance']:.3f} → {measured[axis]['value']:.3f}" for axis in record["axes"]]
        where = "test" if "test" in choice else "validation"
        sentences.append(f"the chosen one on {where} requests, from pure relevance: {', '.join(parts)}")
    return sentences


def main(run: Path, export: Path) -> None:
    """Print the tables, the front's sentences, the places, and how to serve what was exported."""
    console = new_console()
    evaluation = json.loads((run / "evaluation_test.json").read_text("utf-8"))
    summary = json.loads((run / "summary.json").read_text("utf-8"))
    console.print(closing_table(evaluation))
    for table in rivals_tables(evaluation):
        console.print(table)
    console.print(
        f"{evaluation['rows']:,} impressions of {evaluation['requests']:,} test requests; "
        f"{summary['steps']} steps in {summary['seconds']:.0f} s on {summary['processes']} processes"
    )
    front = run / "front.json"
    for sentence in front_sentences(json.loads(front.read_text("utf-8"))) if front.is_file() else ():
        console.print(sentence, soft_wrap=True)
    places = {
        "report, one page to open in a browser": run / "report.html",
        "picture of the trade-offs": run / "front.png",
        "export, one folder per objective": export,
        "config": run / "config.yaml",
        "metrics over time": run / "metrics.jsonl",
        "evaluation": run / "evaluation_test.json",
        "scores": run / "scores_test.parquet",
        "adapters": run / "adapters",
    }
    for name, path in places.items():
        if path.exists():
            console.print(f"  {name}: {path}", soft_wrap=True)
    options = ServerOptions()
    console.print(f"\nnext: equipoise serve {export}", soft_wrap=True)
    console.print(f"      then open http://{options.host}:{options.port}", soft_wrap=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
