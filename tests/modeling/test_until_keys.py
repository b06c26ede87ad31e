"""A layer that ends with its keys and values gives those of the whole layer, to the bit, and skips the rest."""

from collections.abc import Callable

import pytest
import torch

from equipoise.data.batches import Slate, build_batch
from equipoise.modeling.model import SlateModel
from equipoise.modeling.until_keys import Skipped


@pytest.mark.parametrize("arch", ["llama", "qwen3", "mistral", "gpt2", "bert", "roberta"])
def test_keys_are_those_of_the_whole_layer(
    arch: str, make_model: Callable[..., SlateModel], make_slate: Callable[..., Slate], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(arch)
    inputs = build_batch([make_slate(1, [4, 3, 5]), make_slate(2, [3, 6])], 64, 0).model_inputs()
    with torch.no_grad():
        partial = model.score(inputs)
        trimmed = model.upper._last_until_keys
        assert trimmed is not None
        monkeypatch.setattr(model.upper, "_last_until_keys", model.backbone.upper[-1])
        whole = model.score(inputs)
    for name, output in whole.items():
        assert torch.equal(partial[name], output), name
    assert any(isinstance(module, Skipped) for module in trimmed.modules())
    kept = set(trimmed.parameters())
    assert kept < set(model.backbone.upper[-1].parameters())  # the weights are shared, and some are not needed
    widest = max(p.numel() for name, p in model.backbone.upper[-1].named_parameters() if ".lora_" not in name)
    assert sum(p.numel() for p in kept) < sum(p.numel() for p in model.backbone.upper[-1].parameters()) - widest


def test_nothing_is_added_to_the_model(make_model: Callable[..., SlateModel], make_slate: Callable[..., Slate]) -> None:
    model = make_model("llama")
    before, random = model.state_dict().keys(), torch.get_rng_state()
    model.score(build_batch([make_slate(1, [4, 3])], 64, 0).model_inputs())
    assert model.state_dict().keys() == before
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(module._forward_hooks and "_leave" in str(module._forward_hooks) for module in model.modules())
