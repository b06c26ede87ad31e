"""Trees and logistic regression on columns: what they learn, out-of-fold scores, and their text."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from equipoise.common.errors import UserError
from equipoise.evaluation.metrics.pointwise import auc
from equipoise.export.golden_check import linear_log_odds
from equipoise.modeling import simple_models
from equipoise.modeling.linear_model import LinearModel
from equipoise.modeling.simple_models import (
    SHARES,
    Blend,
    cross_entropy,
    fit_blend,
    fit_linear,
    fit_trees,
    from_text,
    log_odds,
    out_of_fold,
    to_text,
)

FITS = {"trees": fit_trees, "linear": fit_linear}


def _rows(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A number that raises the log-odds, one of pure noise, a category of three texts; some values unknown."""
    generator = np.random.default_rng(seed)
    number, noise, code = generator.lognormal(size=count), generator.normal(size=count), generator.integers(0, 3, count)
    logit = np.log1p(number) * 2 - 2 + np.array([-1.0, 0.0, 1.5])[code]
    label = (generator.random(count) < 1 / (1 + np.exp(-logit))).astype(np.float64)
    columns = np.stack([number, noise, code], axis=1).astype(np.float32)
    columns[generator.random(count) < 0.05, 0] = np.nan
    return columns, label


@pytest.mark.parametrize("kind", FITS)
def test_a_model_learns_its_columns_and_survives_its_text(kind: str) -> None:
    columns, label = _rows(4000)
    valid, test = _rows(1000, 1), _rows(2000, 2)
    model = FITS[kind](columns, label, categories=[2], valid=valid, seed=3)
    scores = log_odds(model, test[0])
    assert auc(test[1], scores) > 0.78
    assert cross_entropy(test[1], scores) < 0.58
    again = from_text(to_text(model))
    assert np.array_equal(log_odds(again, test[0]), scores)
    assert np.array_equal(log_odds(again, test[0][:1]), scores[:1])
    assert log_odds(model, test[0][:0]).shape == (0,)


@pytest.mark.parametrize("kind", FITS)
def test_no_row_sees_its_own_label_out_of_fold(kind: str) -> None:
    """A column that is unique per row: in sample it separates the labels, out of fold it gives nothing."""
    generator = np.random.default_rng(5)
    label = (generator.random(1500) < 0.3).astype(np.float64)
    users = generator.integers(0, 100, 1500)
    noise = generator.normal(size=(1500, 3)).astype(np.float32)
    model = FITS[kind](noise, label, seed=1)
    (scores,) = out_of_fold(model, noise, label, users, seed=1)
    assert abs(auc(label, scores) - 0.5) < 0.06
    if kind == "trees":
        assert auc(label, log_odds(model, noise)) > 0.8
    changed = label.copy()
    own = users == users[0]
    changed[own] = 1 - changed[own]
    assert np.array_equal(out_of_fold(model, noise, changed, users, seed=1)[0][own], scores[own])


def test_a_column_of_noise_gives_no_optimism_on_train_and_no_gain_on_test() -> None:
    """A number that is another in every row: trees learn it by heart, out of fold and on test it says nothing."""
    generator = np.random.default_rng(5)
    noise = generator.normal(size=(12_000, 1)).astype(np.float32)
    label = (generator.random(12_000) < 0.3).astype(np.float64)
    users = np.repeat(np.arange(600), 20)
    train, test = slice(0, 8000), slice(8000, None)
    model = fit_trees(noise[train], label[train], seed=1)  # untuned, so that it fits what it can
    assert auc(label[train], log_odds(model, noise[train])) > 0.57
    outside = out_of_fold(model, noise[train], label[train], users[train], seed=1)[0]
    # The standard error of an AUC of 8,000 and 4,000 rows is 0.007 and 0.010.
    assert abs(auc(label[train], outside) - 0.5) < 0.025
    assert abs(auc(label[test], log_odds(model, noise[test])) - 0.5) < 0.035


def test_equal_seeds_give_equal_trees() -> None:
    columns, label = _rows(1000)
    users = np.arange(1000) // 10
    first, second = (fit_trees(columns, label, categories=[2], groups=users, seed=7) for _ in range(2))
    assert to_text(first) == to_text(second)


def test_categories_never_seen_and_numbers_below_zero() -> None:
    columns, label = _rows(1000)
    model = fit_linear(columns - np.array([3, 0, 0], np.float32), label, categories=[2])
    assert isinstance(model, LinearModel)
    odd = np.array([[-5, 0, 99], [np.nan, np.nan, np.nan], [0, 0, -1]], np.float32)
    assert np.isfinite(log_odds(model, odd)).all()
    assert np.isfinite(log_odds(fit_trees(columns, label, categories=[2]), odd)).all()


def test_rates_are_read_as_log_odds() -> None:
    """Effects that add up in log-odds, told as rates: read as they are they bend."""
    rng = np.random.default_rng(5)
    effects = rng.normal(0, 1.5, (20_000, 2)) - 1
    truth = effects.sum(1)
    label = (rng.random(len(truth)) < 1 / (1 + np.exp(-truth))).astype(np.float64)
    rates = (1 / (1 + np.exp(-effects))).astype(np.float32)
    rates[:50, 0] = np.nan
    plain, read = fit_linear(rates, label), fit_linear(rates, label, logits=[0, 1])
    assert read.logits == [0, 1] and read.missing == [0]
    losses = [cross_entropy(label, log_odds(model, rates)) for model in (plain, read)]
    assert losses[1] < cross_entropy(label, truth) + 0.001 < losses[0]
    told = asdict(from_text(to_text(read)))
    for row in (rates[0], rates[60], np.array([1.0, 0.0], np.float32)):
        cells = [None if np.isnan(value) else float(value) for value in row]
        assert linear_log_odds(told, cells) == pytest.approx(log_odds(read, row[None])[0], abs=1e-6)


@pytest.mark.parametrize("kind", FITS)
def test_what_cannot_be_fitted_is_refused(kind: str) -> None:
    with pytest.raises(UserError, match="at least one column"):
        FITS[kind](np.empty((4, 0), np.float32), np.array([0, 1, 0, 1]))
    with pytest.raises(UserError, match="both labels"):
        FITS[kind](np.ones((4, 1), np.float32), np.zeros(4))
    model = FITS[kind](*_rows(50)[:2])
    with pytest.raises(UserError, match="two users"):
        out_of_fold(model, *_rows(50), np.zeros(50))


def test_a_blend_is_the_weighed_mean_of_its_models(monkeypatch: pytest.MonkeyPatch) -> None:
    columns, label = _rows(3000)
    users, test = np.arange(3000) // 10, _rows(2000, 2)
    trees = fit_trees(columns, label, categories=[2], seed=1)
    linear = fit_linear(columns, label, categories=[2], seed=1)
    weight = np.random.default_rng(0).uniform(0.5, 2, 3000)
    kept = {"folds": 3, "seed": 2, "weight": weight}
    blend, (outside, other) = fit_blend(trees, linear, columns, label, users, shown_as=[columns[::-1]], **kept)
    assert len(blend.trees) == 4 and blend.trees[0] is trees and 0 < blend.share < 1
    parts = [log_odds(each, test[0]) for each in blend.trees]
    of_trees = 0.3 * parts[0] + 0.7 * np.mean(parts[1:], axis=0)
    expected = (1 - blend.share) * of_trees + blend.share * log_odds(linear, test[0])
    np.testing.assert_allclose(log_odds(blend, test[0]), expected, atol=1e-12)
    np.testing.assert_allclose(log_odds(replace(blend, share=0.0), test[0]), of_trees, atol=1e-12)
    read = from_text(to_text(blend))
    assert isinstance(read, Blend) and np.array_equal(log_odds(read, test[0]), log_odds(blend, test[0]))
    first = {key: value for key, value in json.loads(to_text(blend)).items() if key != "weights"}
    assert from_text(json.dumps(first | {"whole": 0.3})).weights == pytest.approx(blend.weights)
    # Out of fold each row has the one fold's trees that did not see its user, and a line that did not either.
    tables = [columns, columns[::-1]]
    alone = [out_of_fold(each, columns, label, users, shown_as=tables[1:], **kept) for each in (trees, linear)]
    for found, table, of_trees, of_linear in zip((outside, other), tables, *alone, strict=True):
        np.testing.assert_allclose(found, (1 - blend.share) * of_trees + blend.share * of_linear, atol=1e-12)
        used = np.stack([log_odds(each, table) for each in blend.trees[1:]])
        assert (np.abs(used - of_trees).min(axis=0) < 1e-12).all()
    losses = [cross_entropy(label, (1 - s) * alone[0][0] + s * alone[1][0], weight) for s in SHARES]
    assert losses[list(SHARES).index(blend.share)] == min(losses)
    monkeypatch.setattr(simple_models, "SHARES", np.array([1.0]))
    straight, (found,) = fit_blend(trees, linear, columns, label, users, **kept)
    assert np.array_equal(log_odds(straight, test[0]), log_odds(linear, test[0]))
    assert np.array_equal(found, alone[1][0])


def test_a_blend_ranks_better_than_its_trees() -> None:
    """Few rows of many columns, where single trees vary most, and effects that simply add up."""
    rng = np.random.default_rng(3)
    columns = rng.normal(size=(6000, 12)).astype(np.float32)
    truth = columns @ np.linspace(-1, 1, 12)
    label = (rng.random(6000) < 1 / (1 + np.exp(-truth))).astype(np.float64)
    fitted, test = slice(0, 1500), slice(1500, None)
    users = np.arange(1500) // 5
    trees = fit_trees(columns[fitted], label[fitted], groups=users)
    linear = fit_linear(columns[fitted], label[fitted])
    blend, _ = fit_blend(trees, linear, columns[fitted], label[fitted], users)
    scores = [auc(label[test], log_odds(each, columns[test])) for each in (trees, blend)]
    assert scores[1] > scores[0] + 0.01


def test_broken_texts_are_refused() -> None:
    linear = asdict(fit_linear(*_rows(50)))
    kinds = [([], []), (5, [1]), ([1], [1]), (["tree"], [1]), (["tree"], [0.5, 0.5])]
    blends = [{"share": 0.5, "weights": weights, "linear": linear, "trees": trees} for trees, weights in kinds]
    for text in (
        '{"a": 1}',
        '{"trees": [], "share": 0.5}',
        *map(json.dumps, blends),
        "{",
        "tree\nversion=v4\nnonsense",
    ):
        with pytest.raises(UserError, match="fit"):
            from_text(text)


@pytest.mark.parametrize("kind", FITS)
def test_settings_of_many_rows_are_tried_on_some(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    columns, label = _rows(3000)
    valid = _rows(1000, 1)
    whole = FITS[kind](columns, label, categories=[2], valid=valid, seed=3)
    monkeypatch.setattr(simple_models, "TUNING_ROWS", 1000)
    sampled = FITS[kind](columns, label, categories=[2], valid=valid, seed=3)
    losses = [cross_entropy(valid[1], log_odds(model, valid[0])) for model in (whole, sampled)]
    assert losses[1] < losses[0] + 0.01


@pytest.mark.parametrize("kind", FITS)
@pytest.mark.parametrize("tuned", [False, True])
def test_a_row_of_weight_3_is_fitted_as_three(kind: str, tuned: bool) -> None:
    """The model, the setting that tuning chooses, and every out-of-fold score; bins and leaves hold the same cells."""
    rng = np.random.default_rng(4)
    columns = rng.integers(0, 4, (3000, 2)).astype(np.float32)
    label = (rng.random(3000) < 0.2 + 0.15 * columns[:, 0] * (columns[:, 1] > 1)).astype(np.float64)
    times, users = rng.integers(1, 4, 3000), np.arange(3000) // 6
    repeated = [np.repeat(values, times, axis=0) for values in (columns, label, users)]
    # A penalty is against the sum of weights: repeating rows and weighing them must agree in it too.
    weight, valid = times.astype(float), (columns[::5], label[::5])
    often = tuple(np.repeat(values, times[::5], axis=0) for values in valid)
    settings = {"valid": valid, "valid_weight": weight[::5]} if tuned else {}
    one = FITS[kind](columns, label, weight=weight, **settings)
    other = FITS[kind](repeated[0], repeated[1], **({"valid": often} if tuned else {}))
    cells = np.stack(np.meshgrid(np.arange(4), np.arange(4)), axis=-1).reshape(-1, 2).astype(np.float32)
    same = {"atol": 2e-2 if kind == "trees" else 1e-3, "rtol": 0}
    np.testing.assert_allclose(log_odds(one, cells), log_odds(other, cells), **same)
    plain = log_odds(FITS[kind](columns, label), cells)
    assert np.abs(plain - log_odds(one, cells)).max() > 3 * same["atol"]
    folds = out_of_fold(one, columns, label, users, weight=weight, seed=1)[0]
    expected = out_of_fold(other, *repeated, seed=1)[0]
    first = np.cumsum(times) - times
    np.testing.assert_allclose(folds, expected[first], **same)
