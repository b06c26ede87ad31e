"""The closing table says who wins by how much, also when it is the baseline."""

import io

from rich.console import Console

from launch.closing_table import closing_table

EVALUATION = {
    "pointwise": {"ctr": {"auc": 0.9, "gauc": 0.8}, "ctcvr": {"auc": None, "gauc": 0.7}},
    "baselines": {
        "ctr": {"times_bought": {"auc": 0.85, "gauc": 0.82}, "global rate": {"auc": 0.5, "gauc": 0.5}},
        "ctcvr": {"times_bought": {"auc": 0.86, "gauc": 0.6}, "user rate": {"auc": 0.7, "gauc": None}},
    },
}


def test_differences_to_the_best_baseline() -> None:
    console = Console(file=io.StringIO(), width=120)
    console.print(closing_table(EVALUATION))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    assert rows == [
        ["click", "AUC", "0.900", "times_bought", "0.850", "+0.050"],
        ["click", "GAUC", "0.800", "times_bought", "0.820", "-0.020"],
        ["click and conversion", "GAUC", "0.700", "times_bought", "0.600", "+0.100"],
    ]
