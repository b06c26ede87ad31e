"""Forward splits: what is judged came later than what was fitted on, and each kind of columns is left out once."""

from pathlib import Path

import numpy as np

from benchmarks.prior_columns import QUICK, measure, periods
from equipoise.configs.schema import RunConfig
from equipoise.data.prepare.slates import prepare
from tests.tiny_run import run_settings


def test_each_period_is_judged_by_what_came_before() -> None:
    times = np.repeat([f"2026-01-{day:02d}" for day in range(1, 21)], [5] * 20)
    found = periods(times[::-1])
    assert [len(early) for early, _ in found] == [35, 70, 85] and [len(late) for _, late in found] == [35, 15, 15]
    for early, late in found:
        assert max(times[::-1][early].tolist()) < min(times[::-1][late].tolist())


def test_kinds_of_columns_are_left_out_one_after_another(tmp_path: Path) -> None:
    settings = run_settings(tmp_path)
    settings["data"] |= {
        "features": [{"name": "seen_before", "scale": "log1p"}],
        "rates": [{"of": "click", "by": "item_id"}],
        "comparison": {"item": "title", "co_purchase": False},
    }
    config = RunConfig.model_validate(settings)
    prepare(config.data)
    found = {each["name"]: each for each in measure(config, QUICK)}
    kinds = ("all", "without_similarity", "without_compared", "without_counts", "without_rates")
    assert set(found) == {f"{t}_{k}_{m}" for t in ("ctr", "ctcvr") for k in kinds for m in ("log_loss", "auc", "gauc")}
    for each in found.values():
        assert len(each["periods"]) == 3 and each["value"] == np.mean(each["periods"])
    assert found["ctr_without_similarity_auc"]["value"] == found["ctr_without_compared_auc"]["value"]
    assert found["ctr_all_log_loss"]["value"] != found["ctr_without_rates_log_loss"]["value"]
