"""Vectors of things and similarity columns: who makes them, what decides them, and that they are what they say."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from equipoise.common.errors import UserError
from equipoise.configs.schema import RunConfig
from equipoise.data.prepare.masked import mask_all_fields
from equipoise.data.prepare.slates import prepare
from equipoise.data.thing_columns import SIMILAR, similar
from equipoise.data.token_cache import TokenCache
from equipoise.modeling.frozen_text import FrozenText
from equipoise.train import thing_vectors
from equipoise.train.assemble import open_data
from equipoise.train.prepare_run import write_tokens
from equipoise.train.thing_vectors import find_vectors, thing_columns, vectors_folder
from equipoise.train.token_caches import find_tokens
from tests.tiny_run import run_settings


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """The tiny run's config with a comparison, its data prepared but not tokenised."""
    settings = run_settings(tmp_path_factory.mktemp("things"))
    settings["data"]["comparison"] = {"max_events": 5}
    config = RunConfig.model_validate(settings)
    prepare(config.data)
    return config


def refuse(*_: object) -> None:
    raise AssertionError("vectors are computed again")


def test_one_process_makes_them_and_others_ask(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="holds no vectors of its things for this backbone: run `equipoise tokenize"):
        find_vectors(config)
    monkeypatch.setenv("WORLD_SIZE", "1")
    write_tokens(config)
    texts = pq.read_table(config.data.folder / "things.parquet").column("text").to_pylist()
    vectors = find_vectors(config)
    np.testing.assert_allclose(vectors.vectors, FrozenText(config.backbone, config.seed).vectors(texts), atol=1e-6)
    assert vectors.vectors.dtype == np.float32 and vectors.folder.parent == config.data.folder / "vectors"
    monkeypatch.setattr(FrozenText, "vectors", refuse)
    monkeypatch.setattr(thing_vectors, "_similar_columns", refuse)
    write_tokens(config)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert np.array_equal(find_vectors(config).vectors, vectors.vectors)


@pytest.mark.parametrize(("cosines", "things"), [(1, 0), (40, 0), (40, 8_192), (4_000_000, 8_192)])
def test_columns_are_those_of_single_requests(
    config: RunConfig, cosines: int, things: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thing_vectors, "BLOCK_COSINES", cosines)
    monkeypatch.setattr(thing_vectors, "ALL_COSINES", things)
    shutil.rmtree(find_vectors(config).folder)  # what is beside them is computed once
    tokens, vectors = find_tokens(config), find_vectors(config)
    train = tokens.split("train")
    columns = thing_columns(tokens, vectors, "train")
    table = np.stack([columns[name] for name in SIMILAR], 1)
    assert train.things is not None and tokens.item_things is not None
    for row in range(len(train)):
        part = slice(train.first[row], train.first[row + 1])
        history, candidate = train.things[row], tokens.item_things[train.item[part]]
        expected = similar(history, candidate, vectors.vectors[history], vectors.vectors[candidate])
        np.testing.assert_allclose(table[part], expected, atol=1e-6)
    assert np.isfinite(table).any() and np.isnan(table).any()


def test_what_decides_vectors_decides_their_folder(config: RunConfig, tmp_path: Path) -> None:
    def changed(section: str, **values: object) -> RunConfig:
        return config.model_copy(update={section: getattr(config, section).model_copy(update=values)})

    folder = vectors_folder(config)
    assert vectors_folder(changed("backbone", split=1)) == folder
    assert vectors_folder(changed("data", comparison=config.data.comparison)) == folder
    assert vectors_folder(config.model_copy(update={"seed": config.seed + 1})) != folder  # random weights
    other = changed("data", folder=tmp_path / "other", comparison=None)
    prepare(other.data)
    with pytest.raises(UserError, match=r"other was prepared without data\.comparison: run `equipoise prepare` again"):
        vectors_folder(other)


def test_a_folder_prepared_without_it_is_refused(config: RunConfig, tmp_path: Path) -> None:
    other = config.model_copy(update={"data": config.data.model_copy(update={"folder": tmp_path / "old"})})
    prepare(other.data.model_copy(update={"comparison": None}))
    with pytest.raises(UserError, match=r"was prepared with data\.comparison None, the config has \{'item': 'title'"):
        open_data(other, "train", {}, find_tokens(other))


def test_anonymous_users_share_the_vectors_and_know_nothing(config: RunConfig) -> None:
    masked = config.model_copy(update={"data": mask_all_fields(config.data)})
    prepare(masked.data)
    write_tokens(masked)
    assert vectors_folder(masked) == vectors_folder(config)
    tokens: TokenCache = find_tokens(masked)
    columns = thing_columns(tokens, find_vectors(masked), "train")
    assert all(np.isnan(column).all() for column in [*columns.values(), *tokens.split("train").computed.values()])
