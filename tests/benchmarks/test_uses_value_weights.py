"""The benchmark of reweighing on one small shop: its figures, and that the weights do what they say."""

from pathlib import Path

import pytest

from benchmarks.uses_value_weights import measure_weights


@pytest.mark.slow
def test_reweighing_parts_group_and_label(tmp_path: Path) -> None:
    figures = {figure["name"]: figure for figure in measure_weights(tmp_path, 1, quick=True)}
    value = {name: figure["value"] for name, figure in figures.items()}
    assert value["reweighing_data_gap_before"] > 0.1 and abs(value["reweighing_data_gap_after"]) < 1e-6
    assert abs(value["reweighing_score_gap_after"]) < 0.4 * value["reweighing_score_gap_before"]
    assert figures["reweighing_score_gap_less"]["interval"][0] > 0
    assert value["reweighing_auc_after"] > 0.6
