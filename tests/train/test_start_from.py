"""A training that begins where an earlier run ended: its first evaluation is the earlier model's, its prior is kept."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from equipoise.common.errors import UserError
from equipoise.configs.load import read_run_config
from equipoise.configs.schema import RunConfig
from equipoise.data.prepare.slates import prepare
from equipoise.modeling.run_model import load_run_model
from equipoise.train.assemble import open_data, open_split
from equipoise.train.best_adapters import run_adapters
from equipoise.train.job import train
from equipoise.train.kept_priors import slate_keys
from equipoise.train.objectives.registry import build_objectives
from equipoise.train.priors import find_priors
from equipoise.train.start_from import EarlierRun
from equipoise.train.token_caches import find_tokens
from equipoise.train.validation import validate
from equipoise.train.world import World
from tests.tiny_run import run_settings, write_tables


def settings_of(folder: Path, **options: Any) -> dict[str, Any]:
    settings = run_settings(folder, **options)
    settings["data"]["features"] = [{"name": "seen_before", "scale": "log1p"}]
    settings["objectives"] = {"ctr": {"prior": "linear"}, "cvr": {}}
    return settings


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A finished run of few steps."""
    options = {"max_steps": 4, "eval_every": 2, "head_epochs": 0, "save_every": 2, "self_check": False}
    config = RunConfig.model_validate(settings_of(tmp_path_factory.mktemp("earlier"), **options))
    prepare(config.data)
    assert train(config) is not None
    return config


@pytest.fixture(scope="module")
def later(earlier: RunConfig) -> RunConfig:
    """A run on more requests, the earlier ones among them, that begins from it; prepared."""
    folder = earlier.output.parent / "later"
    settings = settings_of(folder, max_steps=2, eval_every=1, start_from=str(earlier.output), self_check=False)
    settings["backbone"] = earlier.backbone.model_dump(mode="json")
    settings["data"] |= {"tables": write_tables(folder / "more", requests=90), "scales_from": str(earlier.data.folder)}
    # The same requests of the same moments as in the earlier tables, and thirty later ones.
    import pandas as pd

    path, known = settings["data"]["tables"]["impressions"], str(earlier.data.tables.files["impressions"].path)  # type: ignore[union-attr]
    new, old = pd.read_csv(path, dtype=str), pd.read_csv(known, dtype=str)
    added = new[~new.request_id.isin(old.request_id)]
    pd.concat([old, added.assign(timestamp="2026-02-03 12:00:00")]).to_csv(path, index=False)
    settings["data"]["split"] = {"valid_from": "2026-02-01", "test_from": "2026-02-03 12:00:00"}
    some = "r6"  # a few of the later requests are of the valid split
    frame = pd.read_csv(path, dtype=str)
    frame.loc[frame.request_id.str.startswith(some) & (frame.timestamp > "2026-02"), "timestamp"] = "2026-02-02"
    frame.to_csv(path, index=False)
    config = RunConfig.model_validate(settings)
    prepare(config.data)
    return config


def test_the_first_evaluation_is_the_earlier_models(earlier: RunConfig, later: RunConfig, caplog: Any) -> None:
    with caplog.at_level("INFO"):
        assert train(later) is not None
    assert f"begins from {earlier.output} with its adapters and heads" in caplog.text
    assert "the optimizer goes on with the moments of" in caplog.text and "priors: kept" in caplog.text
    lines = [json.loads(line) for line in (later.output / "metrics.jsonl").read_text("utf-8").splitlines()]
    first = next(line for line in lines if line["step"] == 0 and "valid/ctr/log_loss" in line)
    tokens = find_tokens(later)
    data = open_data(later, "valid", build_objectives(later.objectives), tokens, run=earlier.output)
    model = load_run_model(earlier, run_adapters(earlier.output, earlier))
    expected = validate(later, model, open_split(data, "valid"), torch.device("cpu"), World()).metrics()
    assert expected["valid/ctr/log_loss"] == pytest.approx(first["valid/ctr/log_loss"], abs=1e-6)
    assert expected["valid/cvr/log_loss"] == pytest.approx(first["valid/cvr/log_loss"], abs=1e-6)
    record = json.loads((later.output / "start.json").read_text("utf-8"))
    assert record["run"] == str(earlier.output.resolve()) and record["prior"] == "kept"
    moments = torch.load(sorted((earlier.output / "checkpoints").iterdir())[-1] / "optimizer.pt", weights_only=True)
    assert moments["state"]


def test_rows_that_the_prior_was_fitted_on_keep_their_log_odds(earlier: RunConfig, later: RunConfig) -> None:
    kept, fitted = find_priors(later, find_tokens(later)), find_priors(earlier, find_tokens(earlier))
    assert kept is not None and fitted is not None and kept.priors.same_as(fitted.priors)
    own, out_of_fold = kept.training_rows(), fitted.training_rows()
    keys, first = slate_keys(later.data.folder)
    old, old_first = slate_keys(earlier.data.folder)
    same = [number for number, key in enumerate(keys) if key in old]
    assert 0 < len(same) == len(old) < len(keys)
    for number in same:
        start = old_first[old.index(keys[number])]
        np.testing.assert_array_equal(own[first[number] : first[number + 1]], out_of_fold[start : start + 8])
    assert np.isfinite(own).all()


def test_priors_may_be_fitted_again(earlier: RunConfig, later: RunConfig) -> None:
    again = later.model_copy(update={"train": later.train.model_copy(update={"start_prior": "refit"})})
    store, fitted = find_priors(again, find_tokens(again)), find_priors(earlier, find_tokens(earlier))
    assert store is not None and fitted is not None and store.origin is None
    assert not store.priors.same_as(fitted.priors)


def test_a_run_after_a_run_still_knows_where_its_prior_was_fitted(later: RunConfig, tmp_path: Path) -> None:
    third = later.model_copy(
        update={"output": tmp_path / "third", "train": later.train.model_copy(update={"start_from": later.output})}
    )
    store, before = find_priors(third, find_tokens(third)), find_priors(later, find_tokens(later))
    assert store is not None and before is not None
    assert store.origin == before.origin
    np.testing.assert_array_equal(store.training_rows(), before.training_rows())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"lora": {"rank": 8, "alpha": 8}}, "was trained with lora.rank=4, not 8: set it back"),
        ({"seed": 3}, "was trained on a base of seed 17, not of seed 3"),
        ({"objectives": {"ctr": {"prior": "linear"}}, "relevance": None}, "that run has 'cvr', this one lacks it"),
    ],
)
def test_what_does_not_fit_is_refused(later: RunConfig, changes: dict[str, Any], sentence: str) -> None:
    settings = later.model_dump(mode="json") | changes
    with pytest.raises(UserError, match=sentence):
        EarlierRun.of(RunConfig.model_validate(settings))


def test_other_scales_are_refused(earlier: RunConfig, later: RunConfig) -> None:
    found = EarlierRun.of(later)
    assert found is not None
    features = {name: {**scale, "mean": scale["mean"] + 1} for name, scale in found.info.features.items()}
    from dataclasses import replace

    with pytest.raises(UserError, match=r"standardises the feature 'seen_before' otherwise .* data.scales_from"):
        found.refuse_other_shapes(replace(found.info, features=features))


def test_a_folder_without_a_run_and_the_output_itself_are_refused(later: RunConfig, tmp_path: Path) -> None:
    for folder, sentence in ((tmp_path, "holds no run"), (later.output, "is the output itself")):
        options = later.train.model_copy(update={"start_from": folder})
        with pytest.raises(UserError, match=sentence):
            EarlierRun.of(later.model_copy(update={"train": options}))


def test_optimizer_moments_of_other_shapes_are_left(earlier: RunConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(earlier.output, run)
    found = EarlierRun.of(earlier.model_copy(update={"train": earlier.train.model_copy(update={"start_from": run})}))
    assert found is not None
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(3))])
    assert "groups its parameters otherwise" in found.moments_into(optimizer, False)
    assert "DeepSpeed" in found.moments_into(optimizer, True)
    shutil.rmtree(run / "checkpoints")
    assert "kept no checkpoint" in found.moments_into(optimizer, False)
    assert read_run_config(run).train.save_every == 2
