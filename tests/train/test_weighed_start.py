"""Where a weighed training begins: priors, base rates and heads that learn alone count rows by their weights."""

import math

import numpy as np
import pytest
import torch

from equipoise.configs.schema import RunConfig
from equipoise.data.prepare.slates import prepare
from equipoise.modeling.priors import chain_labels
from equipoise.modeling.simple_models import fit_linear, out_of_fold
from equipoise.train import head_phase
from equipoise.train.assemble import DataParts, assemble_model, base_rate_offsets, open_data, open_split
from equipoise.train.head_phase import column_batches, fit_heads, logits_alone
from equipoise.train.objectives.registry import build_objectives
from equipoise.train.token_caches import find_tokens
from tests.tiny_run import run_settings


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, DataParts]:
    """The tiny run with priors, whose clicks of some ages count more."""
    settings = run_settings(tmp_path_factory.mktemp("weighed"))
    settings["data"] |= {"features": [{"name": "seen_before", "scale": "log1p"}], "weights": {"reweigh": "age"}}
    settings["objectives"] = {"ctr": {"prior": "linear"}, "cvr": {"prior": "linear"}}
    config = RunConfig.model_validate(settings)
    prepare(config.data)
    return config, open_data(config, "train", build_objectives(config.objectives), find_tokens(config))


def test_priors_are_fitted_by_weight(data: tuple[RunConfig, DataParts]) -> None:
    train, valid = data[1].slates, open_split(data[1], "valid").slates
    columns, judged = (split.tokens.features["seen_before"][:, None] for split in (train, valid))
    users = np.repeat(np.array(train.rows["user_id"]), np.diff(train.tokens.first))
    for index, names in enumerate((["click"], ["click", "conversion"])):
        own, theirs = (chain_labels([getattr(split.tokens, n) for n in names]) for split in (train, valid))
        model = fit_linear(
            columns, own, valid=(judged, theirs), weight=train.tokens.weight, valid_weight=valid.tokens.weight
        )
        found = out_of_fold(model, columns, own, users, weight=train.tokens.weight)[0]
        plain = out_of_fold(fit_linear(columns, own, valid=(judged, theirs)), columns, own, users)[0]
        assert train.prior is not None and np.abs(found - plain).max() > 1e-3
        ctr = np.asarray(train.prior[:, 0], np.float64)
        if index == 0:
            np.testing.assert_allclose(ctr, found, atol=1e-5)
            continue
        both = 1 / (1 + np.exp(-ctr)) / (1 + np.exp(-np.asarray(train.prior[:, 1], np.float64)))
        np.testing.assert_allclose(both, 1 / (1 + np.exp(-found)), atol=1e-5)


def test_heads_begin_at_the_weighed_base_rate(data: tuple[RunConfig, DataParts]) -> None:
    tokens = data[1].slates.tokens
    weight, click = np.asarray(tokens.weight, np.float64), np.asarray(tokens.click)
    rate = np.average(click, weights=weight)
    offsets = base_rate_offsets(data[1].slates.manifest, ["ctr", "cvr"])
    assert offsets["ctr"] == pytest.approx(math.log(rate / (1 - rate)), abs=1e-5)
    after = np.average(np.asarray(tokens.conversion)[click == 1], weights=weight[click == 1])
    assert offsets["cvr"] == pytest.approx(math.log(after / (1 - after)), abs=1e-5)


def test_heads_that_learn_alone_are_judged_and_taught_by_weight(data: tuple[RunConfig, DataParts]) -> None:
    config, parts = data
    model, _ = assemble_model(config, parts)
    valid, specs = open_split(parts, "valid").slates, config.objectives.specs()
    first = fit_heads(model, specs, parts.slates, valid, 1, 17)["ctr"].losses[0]
    model, _ = assemble_model(config, parts)
    (batch,) = column_batches(valid, range(len(valid)))
    assert batch.weight is not None
    with torch.no_grad():
        logit = logits_alone(model, ["ctr"], batch)["ctr"].double()
        each = torch.nn.functional.binary_cross_entropy_with_logits(logit, batch.click.double(), reduction="none")
    weight = batch.weight.double()
    assert first == pytest.approx(float((weight * each).sum() / weight.sum()), abs=1e-6)
    assert abs(first - float(each.mean())) > 1e-5
    heads = {name: model.heads[name] for name in ("ctr", "cvr")}
    head_phase._losses(heads, specs, model, batch)["ctr"].backward()  # type: ignore[arg-type]
    (slope,) = [p.grad for name, p in heads["ctr"].named_parameters() if name == "moved"]
    probability = logit.sigmoid()
    shift = float((weight * (probability - batch.click.double())).sum() / weight.sum())
    assert slope is not None and min(abs(slope.double() - shift)) < 1e-6  # one of them moves the intercept
