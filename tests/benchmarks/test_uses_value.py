"""The figures of the other uses: names, means over seeds, paired differences, configurations, and a short run."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import uses_value_newcomers, uses_value_recall
from benchmarks.uses_value import main
from benchmarks.uses_value_newcomers import measure_newcomers, newcomers_config
from benchmarks.uses_value_recall import SETS, measure_recalls, recall_config, recall_figures
from equipoise.evaluation.recall.recall_of_run import OURS, SOURCES, Recalls
from tests.data.test_online_retail import made_up_lines


def recalls(seed: int, vectors: bool) -> Recalls:
    """Of 40 requests; ours is .1 above what was bought before, and the others are below that."""
    rng = np.random.default_rng(0)
    bought = rng.random((2, 40)) * 0.5
    bought[:, :3] = np.nan
    lower = {"co-visitation": 0.3, "popularity": 0.2, "BM25": 0.1, "union": 0.9}
    ranked = {OURS: bought + 0.1 + 0.01 * seed, "bought before": bought} | {k: bought * v for k, v in lower.items()}
    ranked |= {SOURCES: bought + 0.05} if vectors else {}
    return Recalls({"all": ranked, "new": ranked}, np.arange(40), 99, {}, vectors)


def test_recalls_of_ours_beside_the_best_rival() -> None:
    found = recall_figures([recalls(0, True), recalls(1, False)], np.arange(40) // 2, "retail_")
    value = {figure["name"].removeprefix("retail_"): figure["value"] for figure in found}
    assert len(value) == len(found)
    for name in ("recall50", "recall200", "recall50_new", "recall200_new"):
        assert value[f"{name}_ours"] == pytest.approx(value[f"{name}_bought_before"] + 0.105)
        assert value[f"{name}_sources"] == pytest.approx(value[f"{name}_bought_before"] + (0.05 + 0.11) / 2)
        assert (
            value[f"{name}_bm25"] < value[f"{name}_popularity"] < value[f"{name}_copurchase"] < value[f"{name}_union"]
        )
        low, high = value[f"{name}_diff_best_low"], value[f"{name}_diff_best_high"]
        assert low == pytest.approx(0.105) == high == pytest.approx(value[f"{name}_diff_best"])  # the same everywhere
    assert value["recall_vectors_kept"] == 0.5
    circumstances = next(figure for figure in found if figure["name"] == "retail_recall50_ours")
    assert (circumstances["requests"], circumstances["users"], circumstances["seeds"]) == (40, 20, 2)


@pytest.mark.parametrize("prefix", SETS)
def test_configurations_of_both_sets(prefix: str, tmp_path: Path) -> None:
    file = tmp_path / "lines.csv"
    recall, newcomers = (make(prefix, tmp_path, 18, False, file) for make in (recall_config, newcomers_config))
    assert recall.objectives.recall is not None and recall.objectives.recall.sources and recall.data.keeps_items
    assert recall.evaluate.max_requests is None and recall.seed == newcomers.seed == 18
    assert newcomers.train.feature_dropout > 0 and newcomers.data.profile and newcomers.objectives.recall is None
    assert newcomers.objectives.ctr is not None and newcomers.objectives.ctr.prior is not None
    assert recall.data.folder != newcomers.data.folder


def test_an_unknown_use_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr("sys.argv", ["uses_value", "--only", "recall,recal", "--json", str(tmp_path / "f.json")])
        main()
    assert ended.value.code == 2 and "--only has recal: use some of recall, newcomers" in capsys.readouterr().err
    assert not (tmp_path / "f.json").exists()


@pytest.mark.slow
def test_a_short_run_on_made_up_orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = made_up_lines()
    new = (lines.InvoiceDate > "2011-10-20") & (lines.CustomerID % 2 == 0)  # customers with a few orders each
    lines.loc[new, "CustomerID"] = 1000 + lines.InvoiceDate.dt.dayofyear // 6
    lines.to_csv(tmp_path / "online_retail.csv", index=False)
    for module in (uses_value_recall, uses_value_newcomers):
        monkeypatch.setattr(module, "SETS", {"retail_": "online_retail.yaml"})
    for measure, names in (
        (measure_recalls, ("recall200_new_ours", "recall50_union", "recall50_diff_best_low")),
        (measure_newcomers, ("new_shopper_gauc_1_ours", "new_shopper_gauc_1_popularity", "new_shopper_gauc_1_prior")),
    ):
        figures = measure(tmp_path / "work", 1, True, tmp_path / "online_retail.csv")
        value = {figure["name"].removeprefix("retail_"): figure["value"] for figure in figures}
        assert all(0 <= value[name] <= 1 for name in names[:2]) and names[2] in value
