"""The benchmark of the comparison on a few runs."""

import pytest

from benchmarks.compare import Plan, measure


@pytest.mark.slow
def test_it_measures_what_it_names() -> None:
    plan = Plan(runs=8, records=10, requests=20, models=2, tracked=2)
    figures = {entry["name"]: entry["value"] for entry in measure(plan)}
    assert set(figures) == {
        "seconds_8_runs", "seconds_8_runs_with_png", "seconds_8_runs_without_baseline", "page_bytes",
        "table_equal_offline_wandb"}  # fmt: skip
    assert figures["table_equal_offline_wandb"] == 1
    assert all(0.1 < figures[name] < 60 for name in figures if name.startswith("seconds"))
    assert 30_000 < figures["page_bytes"] < 1_000_000
