"""The shared adapter folded into the trunk: the same scores, and no adapter left there."""

from collections.abc import Callable

import pytest
import torch
from peft.tuners.lora import LoraLayer

from equipoise.configs.schema import BackboneConfig, LoraConfig
from equipoise.data.batches import build_batch
from equipoise.modeling.folded import fold_shared
from equipoise.modeling.model import ModelSpec, build_model


@pytest.mark.parametrize("arch", ["llama", "bert", "gpt2"])
def test_scores_stay(arch: str, tiny_backbone: Callable[..., BackboneConfig], make_slate: Callable) -> None:
    model = build_model(
        ModelSpec(tiny_backbone(arch), LoraConfig(rank=4, alpha=8), {"ctr": 1}, ["diversity"], {}, seed=3)
    ).eval()
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name or name.endswith("out.weight"):  # they start at zero, which would hide the adapters
            torch.nn.init.normal_(parameter, std=0.2)
    batch = build_batch([make_slate(1, [4, 3, 5]), make_slate(2, [3, 6])], 64, 0).model_inputs()
    with torch.inference_mode():
        before = model.score(batch)
        folded = fold_shared(model)
        after = model.score(batch)
    assert folded > 0
    assert not any(isinstance(module, LoraLayer) for module in model.backbone.trunk.modules())
    assert any(isinstance(module, LoraLayer) for module in model.backbone.upper.modules())
    for name in ("ctr", "diversity"):
        torch.testing.assert_close(after[name], before[name], rtol=1e-4, atol=1e-5)
    assert fold_shared(model) == 0


def test_the_adapter_is_in_the_weights(tiny_backbone: Callable[..., BackboneConfig]) -> None:
    model = build_model(ModelSpec(tiny_backbone("llama"), LoraConfig(rank=4, alpha=12), {"ctr": 1}, [], {}, seed=3))
    name, layer = next((n, m) for n, m in model.backbone.trunk.named_modules() if isinstance(m, LoraLayer))
    torch.nn.init.normal_(layer.lora_B["shared"].weight)
    expected = layer.get_base_layer().weight + 3.0 * layer.lora_B["shared"].weight @ layer.lora_A["shared"].weight
    fold_shared(model)
    torch.testing.assert_close(model.backbone.trunk.get_submodule(name).weight, expected)
