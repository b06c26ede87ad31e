"""Linear models with interactions, and bootstrap replicates of their coefficients."""

import json
from pathlib import Path

import numpy as np
import pytest

from equipoise.common.errors import UserError
from equipoise.common.sealed import SEAL
from equipoise.export.golden_check import linear_log_odds
from equipoise.modeling.linear_model import LinearModel
from equipoise.modeling.priors import FILE, Priors, PriorSpec
from equipoise.modeling.response import SUFFIX, LinearResponse, resample_response
from equipoise.modeling.simple_models import fit_linear, from_text, log_odds, out_of_fold, to_text
from equipoise.serving.prior_terms import contributions

SLOPES = np.array([-3.0, -1.0, 0.0])
"""Per unit of log price, of three segments."""


def rows(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Price, segment and another number; labels; users of ten rows each, with a level of their own."""
    generator = np.random.default_rng(seed)
    price, segment = np.exp(generator.uniform(-0.7, 0.7, count)), generator.integers(0, 3, count)
    other, user = generator.normal(size=count), np.arange(count) // 10
    logit = SLOPES[segment] * np.log(price) - 0.5 + 0.3 * other + generator.normal(size=count)[user] * 0.8
    columns = np.stack([price, segment, other], 1).astype(np.float32)
    columns[generator.random(count) < 0.05, 2] = np.nan
    return columns, (generator.random(count) < 1 / (1 + np.exp(-logit))).astype(float), user


def fitted(columns: np.ndarray, label: np.ndarray) -> LinearModel:
    return fit_linear(columns, label, categories=[1], interactions=[(0, 1), (0, 2), (2, 0)], logs=[0])


def slope_of(model: LinearModel, segment: int) -> float:
    low, high = log_odds(model, np.array([[0.8, segment, np.nan], [1.25, segment, np.nan]], np.float32))
    return float((high - low) / np.log(1.25 / 0.8))


def test_each_segment_has_its_own_slope_of_the_log_price() -> None:
    columns, label, _ = rows(20_000)
    model = fitted(columns, label)
    assert [slope_of(model, segment) for segment in range(3)] == pytest.approx((0.9 * SLOPES).tolist(), abs=0.25)
    # Levels of users flatten the mean slope to about nine tenths.
    plain = fit_linear(columns, label, categories=[1])
    assert slope_of(plain, 0) == pytest.approx(slope_of(plain, 2), abs=1e-3)
    again = from_text(to_text(model))
    assert np.array_equal(log_odds(again, columns), log_odds(model, columns))
    (outside,) = out_of_fold(model, columns, label, np.arange(len(label)) // 10)
    assert np.corrcoef(outside, log_odds(model, columns))[0, 1] > 0.99


def test_a_model_of_an_earlier_version_reads_as_it_did() -> None:
    columns, label, _ = rows(500)
    model = fit_linear(columns, label, categories=[1])
    told = json.loads(to_text(model))
    del told["interactions"], told["logs"]
    assert np.array_equal(log_odds(from_text(json.dumps(told)), columns), log_odds(model, columns))


def test_models_of_fewer_users_share_their_draws() -> None:
    """Users without a row of one model weigh nothing there: its replicates are those of rows of weight 0."""
    columns, label, user = rows(600)
    model = fitted(columns, label)
    seen = user < 55  # the last five have no click, say
    some = resample_response(
        model, columns[seen], label[seen], user[seen], resamples=20, seed=3, users=60, weight_N=np.ones(seen.sum())
    )
    whole = resample_response(model, columns, label, user, resamples=20, seed=3, weight_N=seen.astype(float))
    np.testing.assert_allclose(some.replicates, whole.replicates, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(some.slopes, whole.slopes, rtol=1e-6)  # means of rows by their weights
    other = resample_response(model, columns[seen], label[seen], user[seen], resamples=20, seed=3)
    assert not np.allclose(other.replicates, whole.replicates, atol=1e-3)


def test_the_check_of_exports_and_explanations_give_the_same_log_odds() -> None:
    columns, label, _ = rows(2000)
    model, told = fitted(columns, label), None
    told = json.loads(to_text(model))
    for row, expected in zip(columns[:40], log_odds(model, columns[:40]), strict=True):
        cells = [None if np.isnan(cell) else float(cell) for cell in row]
        assert linear_log_odds(told, cells) == pytest.approx(expected, abs=1e-9)
        base, added = contributions(model, row[None])
        assert base + added.sum() == pytest.approx(expected, abs=1e-9)


def test_replicates_vary_as_refits_on_resampled_users_do() -> None:
    columns, label, user = rows(2000)
    model = fitted(columns, label)
    response = resample_response(model, columns, label, user, resamples=300, seed=1)
    asked = columns[:60]
    moved = response.moved(model, asked)
    assert moved.shape == (300, 60)
    generator, refits = np.random.default_rng(2), []
    for _ in range(60):
        drawn = generator.integers(0, 200, 200)
        taken = (drawn[:, None] * 10 + np.arange(10)).ravel()
        refits.append(log_odds(fitted(columns[taken], label[taken]), asked))
    ratio = moved.std(0) / np.std(refits, axis=0)
    assert 0.8 < np.median(ratio) < 1.2 and np.abs(moved.mean(0) - log_odds(model, asked)).max() < 0.1
    by_row = resample_response(model, columns, label, np.arange(2000), resamples=300, seed=1)
    # Rows of a user resemble each other, so that drawing users varies more than drawing rows.
    assert moved.mean(1).std() / by_row.moved(model, asked).mean(1).std() > 1.15


def test_the_mean_slope_is_shown_where_there_is_one() -> None:
    columns, label, user = rows(6000)
    own = resample_response(fitted(columns, label), columns, label, user, resamples=200, seed=0).slope(0)
    assert own is not None and own[0] == pytest.approx(SLOPES.mean(), abs=0.3)
    assert np.quantile(own[1:], 0.975) < -0.8
    noise = (np.random.default_rng(1).random(6000) < 0.3).astype(float)
    flat = resample_response(fitted(columns, noise), columns, noise, user, resamples=200, seed=0)
    low, high = np.quantile(flat.slope(0)[1:], [0.025, 0.975])  # type: ignore[index]
    assert low < 0 < high and flat.slope(2) is None


def test_priors_carry_the_replicates_and_divide_chains(tmp_path: Path) -> None:
    columns, click, user = rows(3000)
    both = click * (np.random.default_rng(3).random(3000) < 0.15)
    specs = {
        name: PriorSpec("linear", ["price", "segment", "other"], ["segment"], before)
        for name, before in (("ctr", []), ("cvr", ["ctr"]))
    }
    (tmp_path / "made").mkdir()
    for name, label in (("ctr", click), ("cvr", both)):
        model = fitted(columns, label)
        (tmp_path / "made" / f"{name}.txt").write_text(to_text(model))
        response = resample_response(model, columns, label, user, resamples=40, seed=0)
        response.write(tmp_path / "made" / f"{name}{SUFFIX}")
    Priors(tmp_path / "made", specs).write(tmp_path / "copy")
    priors = Priors.read(tmp_path / "copy")
    found = priors.replicates(["ctr", "cvr"], columns[:50])
    assert found is not None and found["cvr"].shape == (40, 50)
    demand = np.prod([1 / (1 + np.exp(-values)) for values in found.values()], axis=0)
    chain = LinearResponse.read(tmp_path / "copy" / f"cvr{SUFFIX}").moved(priors.models["cvr"], columns[:50])  # type: ignore[arg-type]
    np.testing.assert_allclose(demand, 1 / (1 + np.exp(-chain)), rtol=1e-5)
    assert np.median(found["ctr"].mean(0) - priors.log_odds(columns[:50])[:, 0]) == pytest.approx(0, abs=0.05)
    (tmp_path / "copy" / f"ctr{SUFFIX}").unlink()
    (tmp_path / "copy" / SEAL).unlink()  # as folders of before are
    assert Priors.read(tmp_path / "copy").replicates(["ctr", "cvr"], columns[:50]) is None
    assert (tmp_path / "copy" / FILE).is_file()


def test_one_user_cannot_be_resampled() -> None:
    columns, label, _ = rows(200)
    with pytest.raises(UserError, match="at least two users"):
        resample_response(fitted(columns, label), columns, label, np.zeros(200, int), resamples=5, seed=0)
