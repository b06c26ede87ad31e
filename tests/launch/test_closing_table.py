"""The end of the demo says who wins by how much, also when it is the baseline, and what to look at and type next."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table

from equipoise.common.console import PlainConsole
from equipoise.launch.summary import closing_table, front_sentences, main, rivals_tables

ROW = {"ours": 0.91234, "theirs": 0.9, "difference": 0.01234, "difference_interval": [-0.0012, 0.0251]}
EVALUATION: dict[str, Any] = {
    "rows": 1200,
    "requests": 60,
    "against_baseline": {
        "ctr": {
            "auc": {"ours": 0.9, "baseline": "times_bought", "theirs": 0.85, "difference": 0.05},
            "gauc": {"ours": 0.8, "baseline": "times_bought", "theirs": 0.82, "difference": -0.02},
        },
        "ctcvr": {"auc": None, "gauc": {"ours": 0.7, "baseline": "times_bought", "theirs": 0.6, "difference": 0.1}},
    },
    "comparisons": {
        "ctcvr": {
            "bought before": {"ndcg@10": ROW, "auc": {**ROW, "difference_interval": [0.001, 0.02]}},
            "prior": {"ne": {**ROW, "difference_interval": [0.001, 0.02]}, "auc": {**ROW, "difference": None}},
        }
    },
}
FRONT: dict[str, Any] = {
    "axes": ["ndcg", "ild"],
    "valid": {"requests": 60, "rows": 900},
    "points": [{}] * 221,
    "choices": {
        "constraint": {
            "valid": {axis: {"relevance": 0.5, "value": 0.4} for axis in ("ndcg", "ild")},
            "test": {axis: {"relevance": 0.775, "value": 0.761} for axis in ("ndcg", "ild")},
        }
    },
}


def lines(table: Table, width: int = 80) -> list[list[str]]:
    """What a terminal of that width shows, a list of cells per line; two blanks or more part cells."""
    console = PlainConsole(file=io.StringIO(), width=width)
    console.print(table)
    shown = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, shown)) <= width and not any("…" in line.replace(" … ", "") for line in shown)
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in shown]


def test_differences_to_the_best_baseline() -> None:
    assert [row for row in lines(closing_table(EVALUATION)) if row and row[0].startswith("click")] == [
        ["click", "AUC", "times_bought", "0.900", "0.850", "+0.050"],
        ["click", "GAUC", "times_bought", "0.800", "0.820", "-0.020"],
        ["click and conversion", "GAUC", "times_bought", "0.700", "0.600", "+0.100"],
    ]


def test_rivals_fit_a_terminal_and_are_judged_by_their_intervals() -> None:
    (table,) = rivals_tables(EVALUATION)
    shown = lines(table)
    assert shown[0] == ["click and conversion: next to what a shop would use instead"]
    words = {(row[0], row[1]): row[-1] for row in shown if row and row[0] in ("bought before", "prior")}
    assert words == {
        ("bought before", "NDCG@10"): "unclear",
        ("bought before", "AUC"): "better",
        ("prior", "NE"): "worse",
    }


def test_the_front_is_told_with_its_sample() -> None:
    assert front_sentences(FRONT) == [
        "221 trade-offs on 60 validation requests, drawn in front.png",
        "the chosen one on test requests, from pure relevance: ndcg 0.775 → 0.761, ild 0.775 → 0.761",
    ]


def test_it_ends_with_what_is_there_and_the_next_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, export = tmp_path / "run", tmp_path / "export"
    run.mkdir()
    export.mkdir()
    summary = {"steps": 6, "seconds": 23.4, "processes": 2}
    for name, content in {"evaluation_test": EVALUATION, "summary": summary, "front": FRONT}.items():
        (run / f"{name}.json").write_text(json.dumps(content), "utf-8")
    (run / "report.html").write_text("<html>", "utf-8")
    main(run, export)
    printed = capsys.readouterr().out
    assert f"open in a browser: {run / 'report.html'}" in printed and "221 trade-offs" in printed
    assert "metrics over time" not in printed  # this run has none
    assert printed.splitlines()[-2:] == [
        f"next: equipoise serve {export}",
        "      then open http://127.0.0.1:8000",
    ]
