"""Priors: a run begins exactly as them, no row sees its own label, and what cannot be fitted is told in a sentence."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from scipy.optimize import minimize_scalar

from equipoise.common.errors import UserError
from equipoise.configs.priors import PriorConfig
from equipoise.configs.schema import RunConfig
from equipoise.data.prepare.masked import mask_all_fields
from equipoise.data.prepare.slates import prepare
from equipoise.modeling.priors import Priors, PriorSpec, from_column, join_chains
from equipoise.modeling.simple_models import Blend, cross_entropy, log_odds, out_of_fold
from equipoise.train import prior_fit
from equipoise.train.assemble import DataParts, assemble_model, open_data, open_split
from equipoise.train.head_phase import HeadPasses, Judged, fit_heads, learned_parts
from equipoise.train.objectives.registry import build_objectives
from equipoise.train.parameters import optimizer_groups, trainable
from equipoise.train.prior_columns import read_columns
from equipoise.train.priors import find_priors
from equipoise.train.token_caches import find_tokens
from tests.tiny_run import run_settings

FEATURES = [{"name": "seen_before", "scale": "log1p"}, {"name": "category", "scale": "category"}]


def sigmoid(logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logit))


@pytest.fixture(scope="module")
def make_config(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RunConfig]:
    """The tiny run's config, prepared; priors by objective."""

    def make(data: dict[str, Any] | None = None, **priors: Any) -> RunConfig:
        settings = run_settings(tmp_path_factory.mktemp("priors"))
        settings["data"] |= {"features": FEATURES, **(data or {})}
        for name, prior in priors.items():
            settings["objectives"][name] = {"prior": prior}
        config = RunConfig.model_validate(settings)
        prepare(config.data)
        return config

    return make


@pytest.fixture(scope="module")
def linear(make_config: Callable[..., RunConfig]) -> RunConfig:
    return make_config(ctr="linear", cvr="linear")


def open_train(config: RunConfig) -> DataParts:
    return open_data(config, "train", build_objectives(config.objectives), find_tokens(config))


def test_the_first_scores_are_those_of_the_priors(linear: RunConfig) -> None:
    data = open_train(linear)
    model, info = assemble_model(linear, data)
    assert info.priors == ["ctr", "cvr"] and info.offsets == {"ctr": 0.0, "cvr": 0.0}
    valid = open_split(data, "valid")
    from equipoise.data.batches import build_batch

    batch = build_batch([valid.slates.slate(row) for row in range(3)], 256, 0)
    with torch.inference_mode():
        scores = model.eval().score(batch.model_inputs())
    expected = np.concatenate([valid.slates.prior[8 * row : 8 * row + 8] for row in range(3)])  # type: ignore[index]
    for column, name in enumerate(("ctr", "cvr")):
        torch.testing.assert_close(scores[name], torch.from_numpy(expected[:, column]), atol=1e-6, rtol=0)


def test_training_rows_are_scored_by_models_that_saw_no_row_of_their_user(linear: RunConfig) -> None:
    """The labels of one user are turned round: the model of all rows changes, that user's own scores do not."""
    data = open_train(linear)
    rows, tokens = data.slates.rows["user_id"], data.slates.tokens
    users = np.repeat(np.array(rows), np.diff(tokens.first))
    own = users == users[0]
    before = np.array(data.slates.prior)
    fit = prior_fit.PriorFit(linear, find_tokens(linear), linear.data.folder)
    click = np.array(tokens.click)
    click[own] = 1 - click[own]
    fit.train.tokens.click = click
    spec = fit._spec("ctr")
    # Folds and the strength of the penalty are the same; only this user's labels differ.
    changed = fit._log_odds("ctr", spec)[1][0]
    assert np.allclose(changed[own], before[own, 0], atol=1e-3)
    assert np.abs(changed[~own] - before[~own, 0]).max() > 1e-2
    find_priors(linear, find_tokens(linear))


def test_a_chain_is_divided_by_what_comes_before() -> None:
    specs = {"ctr": PriorSpec("linear", ["a"]), "cvr": PriorSpec("linear", ["a"], before=["ctr"])}
    own = {"ctr": np.array([-1.0, 0.5, -2.0]), "cvr": np.array([-3.0, -1.0, 4.0])}
    ctr, cvr = sigmoid(join_chains(specs, own).astype(np.float64)).T
    np.testing.assert_allclose((ctr * cvr)[:2], sigmoid(own["cvr"])[:2], rtol=1e-5)
    assert cvr[2] == pytest.approx(0.95)  # more conversions than clicks: the rough models do not fit each other


def test_a_column_is_taken_as_it_is() -> None:
    np.testing.assert_allclose(from_column(np.array([0.5, 0.2, np.nan]), "probability"), [0, np.log(0.25), 0])
    np.testing.assert_allclose(from_column(np.array([1.5, np.nan]), "log_odds"), [1.5, 0])


def test_a_shops_own_score_is_where_training_begins(make_config: Callable[..., RunConfig]) -> None:
    config = make_config({"features": [{"name": "seen_before", "scale": "none"}]}, ctr={"column": "seen_before"})
    data = open_train(config)
    assert np.array_equal(np.array(data.slates.prior)[:, 0], data.slates.tokens.features["seen_before"])


def test_written_priors_give_the_same_log_odds(linear: RunConfig, tmp_path: Path) -> None:
    data = open_train(linear)
    data.beside.priors.write(tmp_path / "priors")
    valid = open_split(data, "valid").slates
    columns = np.stack([valid.tokens.features[name] for name in ("seen_before", "category")], axis=1)
    again = Priors.read(tmp_path / "priors")
    assert again.columns == ["seen_before", "category"]
    np.testing.assert_array_equal(again.log_odds(columns), valid.prior)
    (tmp_path / "priors" / "ctr.txt").unlink()
    with pytest.raises(UserError, match=r"ctr\.txt is not as it was written"):
        Priors.read(tmp_path / "priors").log_odds(columns)


def test_heads_keep_their_prior_where_a_pass_makes_it_worse(linear: RunConfig) -> None:
    """On sixty requests three passes overfit or help: either way the state that is kept is the one that is told."""
    data = open_train(linear)
    model, _ = assemble_model(linear, data)
    passes = fit_heads(model, linear.objectives.specs(), data.slates, open_split(data, "valid").slates, 3, 17)
    assert set(passes) == {"ctr", "cvr"} and all(len(each.losses) == 4 for each in passes.values())
    again = fit_heads(model, linear.objectives.specs(), data.slates, open_split(data, "valid").slates, 1, 17)
    for name, each in passes.items():
        assert again[name].losses[0] == pytest.approx(each.losses[each.chosen], abs=1e-6)


def test_a_gain_that_may_be_chance_leaves_a_head_as_its_prior() -> None:
    rng = np.random.default_rng(3)
    odds, weight, slate = rng.normal(-1, 1, 60), rng.uniform(0.5, 2, 60), np.repeat(np.arange(12), 5)
    label = (rng.random(60) < 1 / (1 + np.exp(-2 * odds))).astype(float)
    first, moved, better = (Judged({"ctr": (o, label)}, weight, slate) for o in (odds, odds + 0.7, 2 * odds - 0.4))

    def lowest(odds: np.ndarray) -> np.ndarray:
        def losses(level: float) -> np.ndarray:
            return weight * (np.logaddexp(0, odds + level) - label * (odds + level))

        return losses(minimize_scalar(lambda level: losses(level).sum(), bounds=(-5, 5), method="bounded").x)

    gain, error = first.gain_to(better, "ctr")
    difference = lowest(odds) - lowest(2 * odds)
    assert gain == pytest.approx(difference.sum() / weight.sum(), abs=1e-6) and gain > 0
    rest = np.array([difference[slate == s].sum() - gain * weight[slate == s].sum() for s in range(12)])
    assert error == pytest.approx(np.sqrt(12 / 11 * (rest**2).sum()) / weight.sum(), rel=1e-3)
    assert first.gain_to(moved, "ctr")[0] == pytest.approx(0, abs=1e-9)  # it moves the level alone
    assert HeadPasses([2.0, 1.5], gain, gain / 2).chosen == 1
    chance = HeadPasses([2.0, 1.25, 1.5], gain, gain / 1.9)
    assert chance.chosen == 0 and chance.told().endswith("which is its level or chance: it begins as its prior")
    assert HeadPasses([2.0, 2.5], 0.0, 0.0).told().endswith("not below that after any pass of its head alone")
    lone = Judged({"ctr": (odds, label)}, weight, np.zeros(60, int))
    assert HeadPasses([2.0, 1.0], *lone.gain_to(Judged(better.said, weight, lone.slate), "ctr")).chosen == 0


@pytest.mark.parametrize("prior", ["linear", {"method": "trees", "folds": 2}])
def test_a_share_of_slates_is_fitted_as_of_new_shoppers(
    make_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch, prior: Any
) -> None:
    """Whole slates lose their behaviour in the fit; log-odds are of all rows as they are, and of all as of new ones."""
    config = make_config({"behaviour": ["seen_before"]}, ctr=prior, cvr={"method": "linear", "space": "given"})
    config = config.model_copy(update={"train": config.train.model_copy(update={"feature_dropout": 0.4})})
    prepare(mask_all_fields(config.data))
    fits: list[tuple[np.ndarray, Any]] = []

    def spy(model: Any, columns: np.ndarray, *arguments: Any, **settings: Any) -> Any:
        found = out_of_fold(model, columns, *arguments, **settings)
        fits.append((columns, found))
        return found

    monkeypatch.setattr(prior_fit, "out_of_fold", spy)
    data = open_train(config)
    first, click = data.slates.tokens.first, np.asarray(data.slates.tokens.click) == 1
    told = np.asarray(data.slates.tokens.features["seen_before"])
    (fitted, (_, as_told, as_new)), (given, (_, given_told, _)) = fits
    untold = np.array([np.isnan(fitted[first[row] : first[row + 1], 0]).all() for row in range(len(data.slates))])
    rows = ~np.repeat(untold, np.diff(first))
    np.testing.assert_array_equal(fitted[rows, 0], told[rows])
    np.testing.assert_array_equal(given, fitted[click])
    assert 0.25 < untold.mean() < 0.55 and not np.isnan(told).all()
    masked, prior_I2 = np.load(data.beside.priors.folder / "masked.npy"), data.slates.prior
    assert prior_I2 is not None and np.abs(as_told - as_new).max() > 0.01
    np.testing.assert_allclose(prior_I2[:, 0], as_told, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(masked[:, 0], as_new, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(prior_I2[click, 1], given_told, rtol=1e-5, atol=1e-6)


RATES = [{"of": "click", "by": "item_id"}, {"of": "click", "by": "user_id"}]


def test_of_shoppers_of_whom_nothing_is_known_the_fallback_decides(make_config: Callable[..., RunConfig]) -> None:
    fallback = {"fallback": "rate_click_by_item_id"}
    config = make_config(
        {"behaviour": ["seen_before"], "rates": RATES},
        ctr={"method": "trees", "folds": 2, **fallback},
        cvr={"method": "linear", "space": "given", **fallback},
    )
    config = config.model_copy(update={"train": config.train.model_copy(update={"feature_dropout": 0.4})})
    prepare(mask_all_fields(config.data))
    data = open_train(config)
    found, folder = data.beside.priors, data.beside.priors.folder
    spec = found.specs["ctr"]
    assert (set(spec.of_shopper), spec.counted) == ({"seen_before", "shown_by_user_id"}, ["shown_by_user_id"])
    told, masked, item = data.slates.prior, np.load(folder / "masked.npy"), data.slates.tokens.item
    rate = np.asarray(data.slates.tokens.features["rate_click_by_item_id"], np.float64)
    order = np.argsort(rate, kind="stable")[: np.isfinite(rate).sum()]
    assert told is not None and len(np.unique(item)) > 10
    for column in (0, 1):
        rises = np.diff(masked[order, column])
        assert ((rises >= 0).all() or (rises <= 0).all()) and np.ptp(masked[:, column]) > 0.1  # by the rate alone
        assert len(set(np.sign(np.diff(told[order, column])))) == 3
    columns = np.stack([np.asarray(data.slates.tokens.features[name]) for name in found.columns], 1)
    of_shopper = [found.columns.index(name) for name in spec.of_shopper]
    columns[:, of_shopper] = np.nan
    np.testing.assert_allclose(found.log_odds(columns), masked, rtol=1e-5, atol=1e-6)
    columns[:, found.columns.index("shown_by_user_id")] = 0  # a new user whose id is known
    np.testing.assert_allclose(found.log_odds(columns), masked, rtol=1e-5, atol=1e-6)
    columns[:, found.columns.index("seen_before")] = 0  # known to have seen nothing
    assert np.abs(found.log_odds(columns) - masked).max() > 0.01
    other = config.model_copy(update={"data": config.data.model_copy(update={"behaviour": []})})
    with pytest.raises(UserError, match=r"train\.feature_dropout needs|data\.behaviour must"):
        find_priors(other, find_tokens(other))  # and not what was fitted for this one
    plain = config.model_copy(deep=True)
    for name in ("ctr", "cvr"):
        getattr(plain.objectives, name).prior.fallback = None
    np.testing.assert_allclose(open_train(plain).slates.prior, told, rtol=1e-5, atol=1e-6)  # of known ones, the model


def test_the_best_of_two_models_is_the_prior(make_config: Callable[..., RunConfig]) -> None:
    config = make_config(ctr="best", cvr={"method": "best", "space": "given"})
    data = open_train(config)
    valid = open_split(data, "valid").slates
    losses: dict[str, list[float]] = {}
    for kind in ("trees", "linear", "best"):
        one = config.model_copy(deep=True)
        for name in ("ctr", "cvr"):
            getattr(one.objectives, name).prior.method = kind
        logits = open_split(open_train(one), "valid").slates.prior
        for column, (name, label) in enumerate({"ctr": valid.tokens.click, "cvr": valid.tokens.conversion}.items()):
            clicked = np.asarray(valid.tokens.click) == 1 if name == "cvr" else slice(None)
            rows = np.asarray(label, float)[clicked], np.asarray(logits[:, column], float)[clicked]
            losses.setdefault(name, []).append(cross_entropy(*rows))
    for name, (trees, linear_model, best) in losses.items():
        assert best == min(trees, linear_model) != max(trees, linear_model)
        assert data.beside.priors.specs[name].method == ("trees" if trees < linear_model else "linear")


def test_a_blend_scores_training_rows_out_of_fold_and_others_by_all(make_config: Callable[..., RunConfig]) -> None:
    config = make_config(ctr={"method": "blend", "folds": 2}, cvr={"method": "blend", "space": "given", "folds": 2})
    data, fit = open_train(config), prior_fit.PriorFit(config, find_tokens(config), config.data.folder)
    valid, priors = open_split(data, "valid").slates, data.beside.priors
    for column, name in enumerate(("ctr", "cvr")):
        blend = priors.models[name]
        assert priors.specs[name].method == "blend" and isinstance(blend, Blend) and len(blend.trees) == 3
        columns, seen = (read_columns(each, priors.specs[name].columns) for each in (fit.valid_columns, fit.columns))
        if name == "ctr":
            np.testing.assert_allclose(valid.prior[:, column], log_odds(blend, columns), rtol=1e-5, atol=1e-6)
            assert np.abs(data.slates.prior[:, column] - log_odds(blend, seen)).max() > 0.01
        else:  # where its label was not observed, a training row gets all models
            unseen = np.asarray(data.slates.tokens.click) == 0
            found = join_chains({"cvr": priors.specs["cvr"]}, {"cvr": log_odds(blend, seen)})[:, 0]
            np.testing.assert_allclose(data.slates.prior[unseen, column], found[unseen], rtol=1e-5, atol=1e-6)
            assert np.abs(data.slates.prior[~unseen, column] - found[~unseen]).max() > 0.01


def test_a_prior_leaves_out_what_it_is_told(make_config: Callable[..., RunConfig]) -> None:
    left_out = ["category", "similar_mean"]  # the latter is not computed here
    config = make_config(ctr={"method": "blend", "folds": 2, "leave_out": left_out}, cvr="trees")
    store = find_priors(config, find_tokens(config))
    assert store is not None
    assert store.priors.specs["ctr"].columns == ["seen_before"] != store.priors.specs["cvr"].columns
    assert store.priors.specs["ctr"].categories == []
    for left_out, message in (
        (["categorie"], r"leave_out has 'categorie', which the prepared folder does not hold.*category.*: take it out"),
        (["category", "seen_before"], "leaves no column to read: leave fewer out"),
    ):
        prior = config.objectives.ctr.prior.model_copy(update={"leave_out": left_out})
        ctr = config.objectives.ctr.model_copy(update={"prior": prior})
        asked = config.model_copy(update={"objectives": config.objectives.model_copy(update={"ctr": ctr})})
        with pytest.raises(UserError, match=message):
            find_priors(asked, find_tokens(asked))
    for settings, message in (
        ({"columns": ["category"]}, "leave_out and columns say the same twice"),
        ({"column": "score"}, "leave_out belongs to trees"),
        ({"fallback": "seen_before"}, "'seen_before', which fallback or interactions read"),
    ):
        with pytest.raises(ValidationError, match=message):
            PriorConfig(**settings, leave_out=["seen_before"])
    orders = (PriorConfig(leave_out=each).identity() for each in (["a", "b"], ["b", "a"]))
    assert next(orders) == next(orders)


def test_labels_of_one_kind_are_refused_with_the_objective(tmp_path: Path) -> None:
    settings = run_settings(tmp_path)
    table = pd.read_csv(settings["data"]["tables"]["impressions"], dtype=str)
    table["conversion"] = "0"
    table.loc[table.index[0], ["click", "conversion"]] = "1"
    table.to_csv(settings["data"]["tables"]["impressions"], index=False)
    settings["data"] |= {"features": FEATURES}
    settings["objectives"]["ctr"] = settings["objectives"]["cvr"] = {"prior": "blend"}
    config = RunConfig.model_validate(settings)
    prepare(config.data)
    with pytest.raises(UserError, match=r"objectives\.cvr\.prior: .* rows of both labels: .*, or leave it out"):
        find_priors(config, find_tokens(config))


def test_a_fallback_for_some_candidates_of_a_request_is_refused(tmp_path: Path) -> None:
    settings = run_settings(tmp_path)
    table = pd.read_csv(settings["data"]["tables"]["impressions"], dtype=str)
    table.loc[table.item_id.str[1:].astype(int) % 2 == 0, "seen_before"] = None  # as of items that were never bought
    table.to_csv(settings["data"]["tables"]["impressions"], index=False)
    settings["data"] |= {"features": FEATURES, "behaviour": ["seen_before"], "rates": RATES[:1]}
    settings["objectives"]["ctr"] = {"prior": {"method": "linear", "fallback": "rate_click_by_item_id"}}
    config = RunConfig.model_validate(settings)
    prepare(config.data)
    with pytest.raises(UserError, match=r"all of seen_before are unknown of some candidates only: add a column"):
        find_priors(config, find_tokens(config))


def test_what_heads_learned_alone_moves_slowly(linear: RunConfig) -> None:
    model, _ = assemble_model(linear, open_train(linear))
    specs = linear.objectives.specs()
    parts = learned_parts(model, specs)
    assert learned_parts(model, specs | {"cvr": replace(specs["cvr"], form="value")}) == parts[:2]

    def rates(**train: Any) -> dict[str, float]:
        settings = linear.train.model_copy(update={"lr": 1.0, "head_lr": 0.5, "learned_lr_ratio": 0.1, **train})
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        return {
            names[id(p)]: group["lr"] for group in optimizer_groups(model, settings, parts) for p in group["params"]
        }  # fmt: skip

    plus, plain = rates(lora_plus=8.0), rates()
    faster = {name for name in plain if plus[name] != plain[name]}
    assert faster == {name for name in plain if ".lora_B." in name} and {plus[name] for name in faster} == {8.0}
    slow, full = rates(), rates(head_epochs=0)
    assert slow.keys() == full.keys() == trainable(model).keys()
    assert {name for name in slow if slow[name] != full[name]} == {"heads.ctr.moved", "heads.cvr.moved"}
    assert (
        slow["heads.ctr.moved"] == pytest.approx(0.05)
        and full["heads.ctr.moved"] == slow["heads.ctr.score.weight"] == 0.5
    )


def test_a_folder_prepared_with_other_features_is_told_by_the_difference(linear: RunConfig) -> None:
    other = linear.model_copy(deep=True)
    other.data.features.append(other.data.features[0].model_copy(update={"name": "price"}))
    with pytest.raises(
        UserError, match=r"none other there, price \(log1p\) here \(or in another order\): run `equipoise"
    ):
        open_train(other)


@pytest.mark.parametrize(
    ("priors", "words"),
    [
        ({"cvr": "linear"}, r"divided by that of ctr, which has none: add objectives\.ctr\.prior"),
        ({"ctr": {"column": "seen_befor"}}, r"reads 'seen_befor'.*did you mean 'seen_before'"),
        (
            {"ctr": {"fallback": "seen_befor"}},
            r"'seen_befor', which is no number of data\.features.* mean 'seen_before'",
        ),
        ({"ctr": {"fallback": "category"}}, r"fallback is 'category', which is no number"),
        ({"ctr": {"fallback": "seen_before"}}, r"data\.behaviour must name other columns"),
    ],
)
def test_what_cannot_be_fitted_is_said(make_config: Callable[..., RunConfig], priors: Any, words: str) -> None:
    config = make_config(**priors)
    with pytest.raises(UserError, match=words):
        find_priors(config, find_tokens(config))
    assert not list((config.data.folder / "priors").glob("*/priors.json"))


def test_several_processes_ask_for_priors_and_never_fit_them(
    make_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(ctr="linear")
    tokens = find_tokens(config)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="holds no priors for these objectives: run `equipoise tokenize CONFIG`"):
        find_priors(config, tokens)
