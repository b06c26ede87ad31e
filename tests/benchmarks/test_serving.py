"""The serving benchmark on a tiny backbone, with few and short rounds."""

from pathlib import Path

import pytest

from benchmarks.serving import Plan, measure
from benchmarks.serving_export import Size, make_export


@pytest.mark.slow
def test_it_measures_what_it_names(tmp_path: Path) -> None:
    joint, apart = (
        make_export(tmp_path / trunk, Size(backbone="tiny", split=2, items=60, trunk=trunk))
        for trunk in ("joint", "apart")
    )
    plan = Plan(0.3, 1, clients=(1, 4), slates=(5,), prefix=40, long_prefix=120, shoppers=6)
    figures = {entry["name"]: entry["value"] for entry in measure(plan, joint, apart)}
    for cell in ("c1_m5", "c4_m5"):
        for suffix in ("", "_nocache", "_nobatch", "_nocache_nobatch"):
            assert figures[f"rps_{cell}{suffix}"] > 1
            assert 0 < figures[f"p50_ms_{cell}{suffix}"] <= figures[f"p99_ms_{cell}{suffix}"] < 30_000
    for name in ("prefix_cache_ratio", "prefix_cache_ratio_short", "batching_ratio", "item_cache_ratio_m5"):
        assert 0.1 < figures[name] < 10
    assert figures["hostile_requests"] >= 30
    assert figures["slowest_hostile_ms"] > 0
    assert figures["server_errors"] == 0
