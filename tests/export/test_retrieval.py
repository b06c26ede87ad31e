"""Vectors of texts: against plain transformers, on every way through the backbone, and beside the other towers."""

import math
from collections.abc import Callable, Mapping

import pytest
import torch

from equipoise.data.batches import Slate, build_batch
from equipoise.data.recall_texts import text_inputs
from equipoise.modeling.heads import VectorHead, as_named_now
from equipoise.modeling.model import SlateModel
from tests.modeling.test_model import stock_model

TEXTS = [[7, 8, 9, 10, 11], [20, 21], [30, 31, 32, 33, 34, 35, 36, 37], [20, 21, 22]]
BARE = [5]


def texts(max_row: int = 100) -> dict[str, torch.Tensor]:
    return text_inputs(BARE, TEXTS, max_row, pad_id=0)


def recalling(make_model: Callable[..., SlateModel], arch: str, **options: object) -> SlateModel:
    return make_model(arch, retrieval={"recall": 16}, **options)


@pytest.mark.parametrize("arch", ["bert", "llama"])
def test_vectors_are_those_of_the_stock_model(arch: str, make_model: Callable[..., SlateModel]) -> None:
    model = recalling(make_model, arch)
    stock = stock_model(model, model.backbone.config._name_or_path, 3, "recall")
    expected = []
    with torch.no_grad():
        for text in TEXTS:
            ids = torch.tensor([BARE + text])
            if arch == "bert":  # encoders: the mean of the text's tokens; the bare prefix does not see them
                mask = torch.ones(1, 1, ids.shape[1], ids.shape[1], dtype=torch.bool)
                mask[:, :, : len(BARE), len(BARE) :] = False
                pooled = stock(input_ids=ids, attention_mask=mask).last_hidden_state[0, len(BARE) :].mean(0)
            else:
                pooled = stock(input_ids=ids, use_cache=False).last_hidden_state[0, -1]
            vector = model.heads["recall"].project.weight @ pooled
            expected.append(vector / vector.norm())
        for max_row in (100, 11):
            found, weights = model.encode_texts("recall", texts(max_row))
            torch.testing.assert_close(found, torch.stack(expected), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(weights, 20 * model.heads["recall"].mix.detach())


def test_weights_of_older_runs_are_the_same_numbers() -> None:
    old = {"heads.recall.moved": torch.tensor([0.01, -0.02, 0.03]), "heads.ctr.moved": torch.tensor([0.5, 0.1])}
    now = as_named_now(old, ["recall"])
    assert now.keys() == {"heads.recall.mix", "heads.ctr.moved"}
    expected = torch.tensor([20 * math.exp(0.2), 1 - 0.4, 4 + 0.6])
    torch.testing.assert_close(20 * now["heads.recall.mix"], expected)
    assert now["heads.ctr.moved"] is old["heads.ctr.moved"]


def test_vectors_begin_without_weight_beside_sources() -> None:
    assert VectorHead(8, 4, sources=True).weights().tolist() == [0.0, 0.0, 0.0]
    torch.testing.assert_close(VectorHead(8, 4).weights(), torch.tensor([20.0, 1.0, 4.0]))


@pytest.mark.parametrize("scope", ["all", "candidates"])
@pytest.mark.parametrize("attention", ["split", "sdpa"])
def test_every_way_gives_the_same_vectors(attention: str, scope: str, make_model: Callable[..., SlateModel]) -> None:
    model = recalling(make_model, "bert", scope=scope)
    with torch.no_grad():
        expected, _ = model.encode_texts("recall", texts())
        with model.backbone.using(attention):
            found, _ = model.encode_texts("recall", texts(12))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scope", ["all", "candidates"])
def test_texts_beside_slates_change_nothing_and_are_trained_one_by_one_alike(
    scope: str, make_model: Callable[..., SlateModel], make_slate: Callable[..., Slate]
) -> None:
    model = recalling(make_model, "bert", scope=scope)
    inputs = build_batch([make_slate(1, [3, 5]), make_slate(2, [4, 2, 6])], 100, 0).model_inputs()
    alone = model.score(inputs)
    both = model.score({**inputs, "texts": texts()})
    for name in model.objectives:
        torch.testing.assert_close(both[name], alone[name], rtol=1e-5, atol=1e-5)
    assert "recall" not in alone
    torch.testing.assert_close(both["recall"], model.encode_texts("recall", texts())[0], rtol=1e-5, atol=1e-5)

    def criterion(name: str, outputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        own = outputs[name].square() if name != "recall" else outputs[name][0] * outputs["recall.weights"].sum()
        return own[..., ::2].sum()

    together = torch.stack([criterion(name, both) for name in [*model.objectives, "recall"]])
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    expected = torch.autograd.grad(together.sum(), list(parameters.values()))
    found = torch.autograd.grad(
        model.losses({**inputs, "texts": texts()}, criterion)["losses"].sum(), list(parameters.values())
    )
    for name, one, other in zip(parameters, found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, msg=name)
        assert float(other.abs().max()) > 0, name


def test_a_text_does_not_see_the_others(make_model: Callable[..., SlateModel]) -> None:
    model = recalling(make_model, "bert")
    with torch.no_grad():
        all_of_them, _ = model.encode_texts("recall", texts())
        for place, text in enumerate(TEXTS):
            single, _ = model.encode_texts("recall", text_inputs(BARE, [text], 100, 0))
            torch.testing.assert_close(single[0], all_of_them[place], rtol=1e-5, atol=1e-5)
