"""Projections of the first upper layer are computed once for all towers, and only there."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from equipoise.data.batches import build_batch
from equipoise.modeling.adapters import lora_layers
from equipoise.modeling.common_projections import CommonProjections
from equipoise.modeling.model import SlateModel


@pytest.mark.parametrize("arch", ["llama", "bert", "gpt2"])
def test_once_for_all_towers(
    arch: str, make_model: Callable[..., SlateModel], make_slate: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(arch, listwise=("diversity", "fairness"))
    batch = build_batch([make_slate(1, [4, 3, 5]), make_slate(2, [3, 6])], 64, 0).model_inputs()
    products = 0
    addmm, linear = torch.addmm, torch.nn.functional.linear
    weights = {id(layer.get_base_layer().weight) for layer in lora_layers(model.backbone.upper[0])}

    def counted(function: Callable[..., Any], place: int) -> Callable[..., Any]:
        def call(*inputs: Any, **named: Any) -> Any:
            nonlocal products
            products += id(inputs[place]) in weights
            return function(*inputs, **named)

        return call

    monkeypatch.setattr(torch.nn.functional, "linear", counted(linear, 1))
    monkeypatch.setattr(torch, "addmm", counted(addmm, 2))

    def score(shared: bool) -> tuple[dict[str, torch.Tensor], int]:
        nonlocal products
        products = 0
        with monkeypatch.context() as patch, torch.inference_mode():
            if not shared:
                patch.setattr(model, "projections", None)
            return model.score(batch, chunk_tokens=1000), products

    (alone, before), (together, after) = score(False), score(True)
    assert 0 < after < before
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=0, atol=0)


def test_gradients_are_refused(make_model: Callable[..., SlateModel]) -> None:
    model = make_model("bert")
    assert model.projections is not None
    with pytest.raises(AssertionError, match="no graph"), model.projections.of(torch.zeros(1, 2, 3)):
        pass


def test_nothing_is_remembered_outside(make_model: Callable[..., SlateModel]) -> None:
    layer = lora_layers(make_model("bert").backbone.upper[0])[0].get_base_layer()
    x = torch.randn(1, 3, layer.weight.shape[1])
    with torch.no_grad():
        first = layer(x)
        layer.weight.mul_(2.0)
        assert not torch.equal(layer(x), first)


def test_compiled_layers_are_left_alone(make_model: Callable[..., SlateModel]) -> None:
    assert isinstance(make_model("bert").projections, CommonProjections)
    assert make_model("bert", compile=True).projections is None
