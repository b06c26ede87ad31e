"""Figures of lists beside re-ranking, of a promise under drift, and of balancing: by hand where they can be."""

import numpy as np
import pytest

from benchmarks import balance_coupons, balance_value, conflict_map, promise_drift
from benchmarks.quality_measure import Systems
from benchmarks.slates_value import OURS, START, Level, ahead, covered, levels_of, list_time, slates_figures


def points(*values: tuple[float, float, float]) -> np.ndarray:
    """Points whose two resamples are the values themselves and a little less."""
    plain = np.array(values)
    return np.stack([plain, plain, plain - 0.01], axis=2)


OURS_POINTS = points((0.8, 0.6, 0.4), (0.78, 0.7, 0.4), (0.75, 0.7, 0.9))
RIVAL = points((0.8, 0.6, 0.4), (0.74, 0.7, 0.4), (0.70, 0.6, 0.9), (0.6, 0.7, 0.9))


def test_levels_take_the_best_point_that_reaches_them() -> None:
    assert Level(ild=0.65).best(OURS_POINTS)[0] == 0.78 and Level(exposure=0.5).best(OURS_POINTS)[0] == 0.75
    assert Level(0.65, 0.5).best(OURS_POINTS)[0] == 0.75 and np.isnan(Level(ild=0.9).best(OURS_POINTS)).all()
    found = {OURS: OURS_POINTS, START: OURS_POINTS, "MMR + boost": RIVAL}
    levels = levels_of(found)
    assert [round(level.ild, 3) for level in levels["equal_ild"]] == [0.62, 0.64, 0.66, 0.68, 0.695]
    differences = ahead(found)
    np.testing.assert_allclose(differences["equal_ild"][:, 0], 0.04)
    np.testing.assert_allclose(differences["equal_exposure"][:, 0], 0.05)


def test_figures_have_the_names_of_their_systems() -> None:
    found = [{OURS: OURS_POINTS, START: OURS_POINTS, "MMR + boost": RIVAL, "max-sum of p + boost of p": RIVAL}] * 2
    figures = {each["name"]: each for each in slates_figures(found, [{OURS: RIVAL}], 7)}
    assert figures["hypervolume_ours"]["value"] > figures["hypervolume_mmr_boost"]["value"]
    assert figures["hypervolume_start_diff"]["value"] == 0
    assert figures["hypervolume_learned_parallel"]["value"] == figures["hypervolume_mmr_boost"]["value"]
    assert figures["hypervolume_max_sum_of_p_boost_of_p_diff_low"]["value"] > 0
    assert figures["ndcg_at_equal_ild_diff"]["value"] == pytest.approx(0.04)
    assert figures["ndcg_at_equal_ild_diff_low"]["value"] <= figures["ndcg_at_equal_ild_diff_high"]["value"]
    assert {"ndcg_at_both_diff", "ndcg_at_equal_exposure_least_diff"} <= figures.keys()
    whole = covered({OURS: OURS_POINTS, "part": OURS_POINTS[:1]})
    assert whole[OURS][0] > whole["part"][0]


def test_a_list_is_timed() -> None:
    assert list_time()["name"] == "list_ms_20_of_1000"


def test_a_promise_under_drift() -> None:
    found = promise_drift.one_stream(0, 1500)
    assert found["promise_broken_windows"] <= 0.5 and 0.9 < found["promise_ndcg_ratio"] < 1.1
    assert found["promise_ndcg"] <= found["promise_ndcg_relevance"] + 0.02


def test_balancing_acts_where_a_conflict_is_planted() -> None:
    figures = {each["name"]: each["value"] for each in balance_value.measure_balance(2, 120)}
    assert figures["acts_tested_pcgrad_none"] == 0 and figures["acts_tested_pcgrad_strong"] > 0.5
    assert figures["regret_tested_pcgrad_none"] == pytest.approx(figures["regret_weighted_none"])
    assert figures["least_mgda_strong"] <= figures["least_weighted_strong"] + 1e-9


def test_a_planted_category_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conflict_map, "cost", lambda rounds, sizes: {"name": "step_ratio", "value": 1.0})
    figures = {each["name"]: each["value"] for each in conflict_map.measure(1, 600, 60, 1)}
    assert figures["planted_auc"] > 0.8 and figures["others_sure"] < 0.2


def test_delta_m_is_what_is_saved_of_ne_and_of_the_pairs_out_of_order() -> None:
    """Alone orders one of two pairs wrongly; the method orders both rightly with the same entropy."""
    request, click = np.repeat(np.arange(40), 2), np.tile([1, 0, 0, 1], 20)
    alone, ours = np.tile([0.6, 0.4, 0.6, 0.4], 20), np.tile([0.6, 0.4, 0.4, 0.6], 20)
    scores = {name: {"weighted": [ours], "alone": [alone]} for name in ("ctr", "ctcvr")}
    labels = dict.fromkeys(scores, click)
    systems = Systems(request, request, labels, click.astype(float), scores, reference="alone")
    figures = {each["name"]: each["value"] for each in balance_coupons.measured(systems, 40, 1)}
    entropy = {name: -np.log(p) for name, p in (("right", 0.6), ("wrong", 0.4))}
    saved_ne = 1 - entropy["right"] / (0.5 * (entropy["right"] + entropy["wrong"]))
    assert figures["weighted_delta_m"] == pytest.approx(100 * (saved_ne + 1.0) / 2)
    assert figures["weighted_ctr_auc_diff"] == pytest.approx(0.5)
