"""New shoppers: measured next to the known ones with ever fewer fields included; and masked slates in training."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.random_run import write_random_run
from equipoise.common.errors import UserError
from equipoise.configs.load import load_config
from equipoise.configs.schema import RunConfig
from equipoise.data.prepare.masked import mask_all_fields, mask_behaviour, mask_to_events, unmasked_folder
from equipoise.data.prepare.slates import prepare
from equipoise.evaluation.cold_start import measure_cold_start as run
from equipoise.launch.cli import main
from equipoise.train.assemble import open_data, train_batches
from equipoise.train.objectives.registry import build_objectives
from equipoise.train.prepare_run import prepare_data as run_prepare
from equipoise.train.token_caches import find_tokens
from equipoise.train.world import World
from tests.tiny_run import run_settings, write_config


def settings_of(folder: Path, **data: Any) -> dict[str, Any]:
    settings = run_settings(folder)
    settings["data"] |= {"behaviour": ["seen_before"], "profile": ["age"], "split": {"holdout_users": 0.3}, **data}
    settings["data"] |= {"features": [{"name": "seen_before", "scale": "log1p"}]}
    settings["evaluate"] = {"cutoffs": [3]}
    return settings


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("newcomers")
    config = load_config(write_config(settings_of(folder), folder / "config.yaml"))
    prepare(config.data)
    write_random_run(config)
    return config


def prefixes(folder: Path, split: str) -> list[str]:
    return pq.read_table(folder / "slates" / f"{split}-00000.parquet").column("prefix").to_pylist()


def test_what_a_new_shopper_has_no_words_for(trained: RunConfig) -> None:
    told = mask_behaviour(trained.data)
    assert (told.prompt.prefix, told.prompt.context, told.history.max_events) == (["age {age}"], [], 0)
    assert [feature.included for feature in told.features] == [False] and trained.data.features[0].included
    assert mask_all_fields(trained.data).prompt.prefix == []
    few = mask_to_events(trained.data, 2)
    assert (few.prompt, few.features) == (told.prompt, told.features)
    settings = trained.data.model_copy(update={"history": trained.data.history.model_copy(update={"latest": 1})})
    assert mask_to_events(settings, 2).history.latest == 1  # no more than is told of all
    assert (few.history.latest, few.history.max_events) == (2, trained.data.history.max_events)
    assert (
        few.folder.name == f"{trained.data.folder.name}.2_events" and unmasked_folder(few.folder) == trained.data.folder
    )
    assert mask_all_fields(trained.data).prompt.item == trained.data.prompt.item
    wrong = trained.data.model_copy(update={"profile": ["shoe_size"]})
    with pytest.raises(UserError, match=r"'shoe_size', which data\.prompt\.prefix, data\.prompt\.context and"):
        mask_all_fields(wrong)


@pytest.mark.slow
def test_every_group_is_measured(trained: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    main_arguments = ["newcomers", str(trained.output)]
    with pytest.raises(SystemExit) as ended:
        main(main_arguments)
    assert ended.value.code == 0
    record = json.loads((trained.output / "newcomers_test.json").read_text())
    groups = record["groups"]
    few = ["new, 5 events", "new, 2 events", "new, 1 event"]
    assert list(groups) == ["known", "new, as told", *few, "new, profile only", "new, nothing told"]
    train = set(pq.read_table(trained.data.folder / "slates" / "train-00000.parquet").column("user_id").to_pylist())
    test = pq.read_table(trained.data.folder / "slates" / "test-00000.parquet").column("user_id").to_pylist()
    assert groups["known"]["requests"] == sum(user in train for user in test) > 0
    new = {groups[name]["requests"] for name in list(groups)[1:]}
    assert new == {sum(user not in train for user in test)} and min(new) > 0
    assert len({groups[name]["clicks"] for name in list(groups)[1:]}) == 1  # the same requests each time
    said = [groups[name]["pointwise"]["ctr"]["log_loss"] for name in list(groups)[1:]]
    assert len(set(said)) >= 4  # other words, other predictions; few events may be all there were
    assert all(set(group["comparisons"]["ctr"]) >= {"popularity"} for group in groups.values())
    told = groups["new, as told"]["pointwise"]["ctr"]["gauc"]
    assert record["gauc_ratio"] == pytest.approx(told / groups["known"]["pointwise"]["ctr"]["gauc"])
    assert not (trained.output / "scores_test.parquet").exists()
    assert "new, nothing told" in capsys.readouterr().out
    nothing = mask_all_fields(trained.data).folder
    assert set(prefixes(nothing, "test")) == {""}
    numbers = pq.read_table(nothing / "slates" / "test-00000.parquet").column("feature_seen_before").to_pylist()
    assert np.isnan(np.concatenate(numbers)).all()
    made = (nothing / "manifest.json").stat().st_mtime_ns
    run(trained.output, 2, [], [3])
    assert (nothing / "manifest.json").stat().st_mtime_ns == made  # once is enough
    again = json.loads((trained.output / "newcomers_test.json").read_text())["groups"]
    assert {group["requests"] for group in again.values()} == {2}
    assert "new, 3 events" in again and "new, 5 events" not in again


def test_without_new_shoppers_it_says_so(tmp_path: Path) -> None:
    few = {"valid_fraction": 0.02, "test_fraction": 0.05}
    config = load_config(write_config(settings_of(tmp_path, split=few), tmp_path / "config.yaml"))
    prepare(config.data)
    write_random_run(config)
    train = set(pq.read_table(config.data.folder / "slates" / "train-00000.parquet").column("user_id").to_pylist())
    test = pq.read_table(config.data.folder / "slates" / "test-00000.parquet").column("user_id").to_pylist()
    assert set(test) <= train
    with pytest.raises(UserError, match=r"no test request of a new shopper: hold some out"):
        run(config.output, None, [])


class TestForget:
    def batches(self, folder: Path, forget: float) -> tuple[Any, RunConfig]:
        settings = settings_of(folder)
        settings["train"] |= {"feature_dropout": forget}
        config = load_config(write_config(settings, folder / "config.yaml"))
        run_prepare(config)
        objectives = build_objectives(config.objectives)
        data = open_data(config, "train", objectives, find_tokens(config))
        return train_batches(config, data, World()), config

    @pytest.mark.slow
    def test_that_fraction_of_slates_is_masked(self, tmp_path: Path) -> None:
        batches, config = self.batches(tmp_path, 0.4)
        rows, epochs = range(len(batches.slates)), range(40)
        masked = np.array([[batches._source(row, epoch) is batches.masked_slates for row in rows] for epoch in epochs])
        assert 0.35 < masked.mean() < 0.45
        assert masked.mean(0).min() > 0 and masked.mean(0).max() < 1  # each slate is masked in some epochs
        again, _ = self.batches_again(config)
        assert all(
            (again._source(row, 3) is again.masked_slates) == (batches._source(row, 3) is batches.masked_slates)
            for row in rows
        )

    def batches_again(self, config: RunConfig) -> tuple[Any, RunConfig]:
        objectives = build_objectives(config.objectives)
        return train_batches(config, open_data(config, "train", objectives, find_tokens(config)), World()), config

    def test_masked_slates_have_the_same_labels_and_fewer_words(self, tmp_path: Path) -> None:
        batches, _ = self.batches(tmp_path, 0.4)
        for row in range(len(batches.slates)):
            known = batches.slates.slate(row, 4, seed=1, epoch=2)
            masked = batches.masked_slates.slate(row, 4, seed=1, epoch=2)
            assert known.item.tolist() == masked.item.tolist()
            assert known.click.tolist() == masked.click.tolist()
            assert len(masked.prefix) < len(known.prefix)

    def test_unprepared_masked_slates_are_asked_for(self, tmp_path: Path) -> None:
        config = load_config(
            write_config(settings_of(tmp_path), tmp_path / "config.yaml"), ["train.feature_dropout=0.2"]
        )
        prepare(config.data)
        with pytest.raises(UserError, match=r"train\.feature_dropout needs .* run\s*`equipoise prepare`"):
            self.batches_again(config)
