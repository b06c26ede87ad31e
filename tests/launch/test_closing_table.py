"""The closing table says who wins by how much, also when it is the baseline."""

import io

from rich.console import Console

from equipoise.launch.summary import closing_table

EVALUATION = {
    "against_baseline": {
        "ctr": {
            "auc": {"ours": 0.9, "baseline": "times_bought", "theirs": 0.85, "difference": 0.05},
            "gauc": {"ours": 0.8, "baseline": "times_bought", "theirs": 0.82, "difference": -0.02},
        },
        "ctcvr": {"auc": None, "gauc": {"ours": 0.7, "baseline": "times_bought", "theirs": 0.6, "difference": 0.1}},
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
