"""The streaming benchmark on a few requests."""

import pytest

from benchmarks.streaming import Plan, measure


@pytest.mark.slow
def test_it_measures_what_it_names() -> None:
    figures = {entry["name"]: entry["value"] for entry in measure(Plan(2_000, candidates=10, items=50, huge=20))}
    assert figures["streaming_impressions"] == 2_000
    assert 100 < figures["streaming_peak_mib_tenth"] < 8_000
    assert 0.8 < figures["streaming_memory_growth"] < 1.25
    assert 0.8 < figures["huge_request_peak_ratio"] < 1.25
    assert figures["streaming_impressions_per_second"] is not None
