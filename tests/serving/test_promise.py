"""Promises that are kept while serving: what windows measure, how ω follows, and what is remembered."""

import json
from pathlib import Path

import numpy as np
import pytest

from equipoise.common.errors import UserError
from equipoise.common.lists import ListRule, ListTerm
from equipoise.evaluation.metrics.ranking import exposure, intra_list_diversity, rank_requests
from equipoise.serving.promise import Keeper, Promise, ild, read_promises
from equipoise.serving.ranking import Ranking

RULE = ListRule(
    5,
    {
        "fairness": ListTerm("price", ("provider",), {"strong": 0.0, "weak": 1.0}),
        "diversity": ListTerm("spread", ("department", "category")),
    },
)
BOUNDS = {"fairness": (0.0, 2.0), "diversity": (0.0, 4.0)}
FAIR = Promise("exposure_ratio", 0.8, "fairness", 2.0)
UNLIKE = Promise("ild", 0.7, "diversity", 4.0)


def slate(
    rng: np.random.Generator, omega: dict[str, float], deficit: float = 1.0, count: int = 20, top: int = 5
) -> Ranking:
    weak = rng.random(count) < 0.4
    logit = rng.normal(-2.0, 1.0, count) - deficit * weak
    kind = rng.integers(0, 8, count)
    values = {
        "provider": np.where(weak, "weak", "strong").tolist(),
        "department": [f"d{each // 4}" for each in kind],
        "category": [f"c{each}" for each in kind],
    }
    deltas = {name: [0.0] * count for name in RULE.terms}
    return Ranking.of(None, [None] * count, {"ctr": logit.tolist()}, deltas, omega, top, lists=RULE, attributes=values)


def test_windows_measure_what_evaluation_measures() -> None:
    keeper = Keeper([FAIR, UNLIKE], RULE, {"fairness": 0.0, "diversity": 0.0}, window=30)
    rng, rankings = np.random.default_rng(0), []
    for _ in range(30):
        rankings.append(slate(rng, keeper.omega()))
        keeper.observe(rankings[-1])
    request = np.repeat(np.arange(30), 20)
    score = np.concatenate([[-scored.rank for scored in ranking.given] for ranking in rankings])
    lists = rank_requests(request, score)
    providers = np.concatenate([ranking.attributes["provider"] for ranking in rankings])
    ratio = exposure(lists, (providers == "weak").astype(int), ["strong", "weak"], 5)["min_max"]
    assert keeper.states["fairness"].value == pytest.approx(ratio)
    paths = np.concatenate(
        [
            np.stack(
                [np.unique(ranking.attributes[name], return_inverse=True)[1] for name in ("department", "category")], 1
            )
            for ranking in rankings
        ]
    )
    assert keeper.states["diversity"].value == pytest.approx(intra_list_diversity(lists, paths, 5))
    assert ild([["a", "a", "b"], ["x", "y", "z"]], [0, 1, 2]) == pytest.approx(1 - 0.5 / 3)
    assert ild([["a"]], [0]) == 0.0


@pytest.mark.parametrize("promise", [FAIR, UNLIKE])
def test_a_promise_is_kept_and_no_more_than_that(promise: Promise) -> None:
    """From ω = 0, where it is broken; after the shop has changed, it is kept again, with less where less is needed."""
    keeper, rng = Keeper([promise], RULE, {"fairness": 0.0, "diversity": 0.0}, window=50), np.random.default_rng(1)
    values: list[float] = []
    omegas: list[float] = []
    for number in range(4000):
        keeper.observe(slate(rng, keeper.omega(), 1.0 if number < 2000 else 0.2))
        if number % 50 == 49:
            values.append(float(keeper.states[promise.objective].value or 0.0))
            omegas.append(keeper.states[promise.objective].omega)
    assert values[0] < promise.bound
    for part in (slice(12, 40), slice(52, 80)):
        assert np.mean(np.array(values[part]) < promise.bound) <= 0.15
        assert np.mean(values[part]) < promise.bound + 0.17  # or relevance is given away for nothing
    state = keeper.states[promise.objective]
    assert state.windows == 80 and state.broken == sum(value < promise.bound for value in values)
    assert all(0 <= omega <= promise.most for omega in omegas)
    if promise is FAIR:
        assert np.mean(omegas[60:]) < 0.6 * np.mean(omegas[20:40])


@pytest.mark.parametrize("top", [1, 2, 3])
def test_lists_shorter_than_k_are_compared_with_lists_as_short(top: int) -> None:
    """Requests that ask for fewer places than K; a list of one has no pair and says nothing of ILD."""
    keeper, rng = (
        Keeper([FAIR, UNLIKE], RULE, {"fairness": 0.0, "diversity": 0.0}, window=200),
        np.random.default_rng(4),
    )
    values: dict[str, list[float]] = {"fairness": [], "diversity": []}
    for number in range(4000):
        keeper.observe(slate(rng, keeper.omega(), top=top))
        for name, seen in values.items():
            if number % 200 == 199 and keeper.states[name].value is not None:
                seen.append(float(keeper.states[name].value or 0.0))
    assert np.mean(np.array(values["fairness"][8:]) < FAIR.bound) <= 0.34  # fewer places say less in a window
    assert keeper.omega()["fairness"] < 1.5
    if top == 1:
        assert not values["diversity"] and keeper.omega()["diversity"] == 0.0
    else:
        assert np.mean(np.array(values["diversity"][8:]) < UNLIKE.bound) <= 0.34


def test_omega_stays_within_both_bounds() -> None:
    promise = Promise("exposure_ratio", 0.2, "fairness", 2.0, 0.4)
    keeper, rng = Keeper([promise], RULE, {"fairness": 0.0, "diversity": 0.0}, window=20), np.random.default_rng(5)
    for _ in range(400):
        assert 0.4 <= keeper.omega()["fairness"] <= 2.0
        keeper.observe(slate(rng, keeper.omega()))
    assert keeper.omega()["fairness"] == 0.4  # less would do
    with pytest.raises(UserError, match="cannot move"):
        read_promises("ild>=0.5", RULE, {**BOUNDS, "diversity": (0.0, 0.0)})


def test_lists_made_before_a_step_are_measured_at_their_own_omega() -> None:
    keeper, rng = Keeper([FAIR], RULE, {"fairness": 0.0, "diversity": 0.0}, window=10), np.random.default_rng(6)
    early = [slate(rng, keeper.omega()) for _ in range(20)]
    for ranking in early:
        keeper.observe(ranking)
    assert keeper.states["fairness"].windows == 2 and 0 < (keeper.states["fairness"].slope or 0) < 10


def test_it_comes_back_from_too_large_an_omega() -> None:
    """Where the weak group is shown too much the ratio is low again, and ω must fall."""
    keeper, rng = Keeper([FAIR], RULE, {"fairness": 2.0, "diversity": 0.0}, window=50), np.random.default_rng(2)
    for _ in range(2000):
        keeper.observe(slate(rng, keeper.omega()))
    assert keeper.omega()["fairness"] < 1.0 and (keeper.states["fairness"].value or 0) > 0.8


def test_it_survives_a_restart(tmp_path: Path) -> None:
    path, rng = tmp_path / "keep.json", np.random.default_rng(3)
    keeper = Keeper([FAIR], RULE, {"fairness": 0.0, "diversity": 0.5}, path, window=20)
    for _ in range(100):
        keeper.observe(slate(rng, keeper.omega()))
    again = Keeper([FAIR], RULE, {"fairness": 0.0, "diversity": 0.5}, path, window=20)
    assert again.omega() == keeper.omega() and again.omega()["fairness"] > 0 and again.omega()["diversity"] == 0.5
    assert again.states["fairness"].windows == 5 and again.to_json() == keeper.to_json()
    with pytest.raises(UserError, match="remembers other promises"):
        Keeper([UNLIKE], RULE, {}, path)
    path.write_text("{")
    with pytest.raises(UserError, match="delete it to begin anew"):
        Keeper([FAIR], RULE, {}, path)
    path.write_text(json.dumps({"promises": [{**keeper.to_json()[0], "omega": float("nan")}]}))
    with pytest.raises(UserError, match="delete it to begin anew"):
        Keeper([FAIR], RULE, {}, path)
    path.write_text(json.dumps({"promises": [{"promise": FAIR.words}]}))
    with pytest.raises(UserError, match="delete it to begin anew"):
        Keeper([FAIR], RULE, {}, path)


def test_a_place_that_cannot_be_written_is_refused_at_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in (tmp_path / "nowhere" / "keep.json", tmp_path):
        with pytest.raises(UserError, match=r"--keep-state .* cannot be written"):
            Keeper([FAIR], RULE, {}, path)
    (tmp_path / "there").mkdir()
    path, rng = tmp_path / "there" / "keep.json", np.random.default_rng(7)
    keeper = Keeper([FAIR], RULE, {"fairness": 0.0, "diversity": 0.0}, path, window=5)
    path.unlink()
    (tmp_path / "there").rmdir()  # later it is said, and the server goes on
    for _ in range(5):
        keeper.observe(slate(rng, keeper.omega()))
    assert keeper.states["fairness"].windows == 1 and "cannot be written" in caplog.text


def test_promises_are_read() -> None:
    found = read_promises("exposure_ratio>=0.8 and ild >= 0.7", RULE, BOUNDS)
    assert found == (FAIR, UNLIKE) and found[0].words == "exposure_ratio>=0.8"
    refused = {
        "ndcg>=0.5": "is no promise",
        "ild<=0.5": "is no promise",
        "ild>=1.5": "above 0 and below 1",
        "ild>=0.8.1": "above 0 and below 1",
        "ild>=0.5 and ild>=0.6": "twice",
        "": "is no promise",
    }
    for text, reason in refused.items():
        with pytest.raises(UserError, match=reason):
            read_promises(text, RULE, BOUNDS)
    with pytest.raises(UserError, match="no objective of this export"):
        read_promises("ild>=0.5", None, {})
    with pytest.raises(UserError, match="train with fairness"):
        read_promises("exposure_ratio>=0.5", ListRule(5, {"diversity": RULE.terms["diversity"]}), BOUNDS)
