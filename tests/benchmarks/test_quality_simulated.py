"""The simulated shop: its clicks follow its probabilities, titles tell nothing, and its configurations are whole."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.quality import ROOT
from benchmarks.quality_simulated import CANDIDATES, REQUESTS, TRUTH, simulate, simulated_config
from equipoise.evaluation.metrics.pointwise import auc, calibration_error


def test_clicks_follow_the_probabilities_and_items_decide_them(tmp_path: Path) -> None:
    simulate(tmp_path / "tables")
    rows = pq.read_table(tmp_path / "tables" / "impressions.parquet")
    click, truth = rows["click"].to_numpy(), rows[TRUTH].to_numpy()
    assert rows.num_rows == REQUESTS * CANDIDATES and calibration_error(click, truth) < 0.005
    items = np.unique(rows["item_id"].to_numpy(zero_copy_only=False), return_inverse=True)[1]
    rate = np.bincount(items, click) / np.bincount(items)
    assert 0.70 < auc(click, rate[items]) < auc(click, truth) - 0.02  # shoppers differ as well
    simulate(tmp_path / "again")
    assert pq.read_table(tmp_path / "again" / "impressions.parquet").equals(rows)


def test_text_alone_has_neither_rates_nor_prior(tmp_path: Path) -> None:
    path = ROOT / "configs" / "demo.yaml"
    ours, text = (simulated_config(path, tmp_path, 18, False, only) for only in (False, True))
    assert [feature.name for feature in ours.data.features][::2] == ["rate_click_by_item_id", "rate_click_by_user_id"]
    assert ours.objectives.ctr is not None and ours.objectives.ctr.prior is not None and ours.data.fields == [TRUTH]
    assert not text.data.features and text.objectives.ctr is not None and text.objectives.ctr.prior is None
    assert ours.output != text.output and ours.data.folder != text.data.folder and text.seed == 18
