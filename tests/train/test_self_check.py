"""The check before training: passes where packed slates are right, stops where they are not."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from equipoise.common.errors import UserError
from equipoise.data.batches import Slate, SlateBatch, build_batch
from equipoise.modeling.attention.prefix_split import CandidateForward
from equipoise.modeling.fused import slates
from equipoise.modeling.model import SlateModel
from equipoise.train.kernel_choice import kernel_difference, settle_kernels
from equipoise.train.self_check import self_check, separate_prompts
from equipoise.train.world import World


@pytest.fixture
def batch(make_slate: Callable[..., Slate]) -> SlateBatch:
    return build_batch([make_slate(0, [5, 3, 7], prefix=9), make_slate(1, [2, 6], prefix=4)], 1000, 0)


def test_separate_prompts_hold_prefix_and_candidate(batch: SlateBatch, make_slate: Callable[..., Slate]) -> None:
    found = separate_prompts(batch, [1, 4])
    one, other = make_slate(0, [5, 3, 7], prefix=9), make_slate(1, [2, 6], prefix=4)
    assert found["input_ids"][0].tolist() == [*one.prefix, *one.candidates[1]]
    assert found["input_ids"][1, :10].tolist() == [*other.prefix, *other.candidates[1]]
    assert found["segment_ids"][1].tolist() == [0] * 4 + [1] * 6 + [-1] * 2
    assert found["position_ids"][1].tolist() == [*range(10), 0, 0]


@pytest.mark.parametrize("scope", ["all", "candidates"])
@pytest.mark.parametrize("attention", ["split", "sdpa"])
@pytest.mark.parametrize("arch", ["llama", "gpt2", "bert", "roberta"])
def test_packed_slates_pass(
    arch: str, attention: str, scope: str, make_model: Callable[..., SlateModel], batch: SlateBatch
) -> None:
    model = make_model(arch, attention=attention, scope=scope).train()
    assert self_check(model, model, batch, World()) < 1e-5
    assert model.training and model.backbone.attention == attention


def test_bfloat16_has_its_own_tolerance(make_model: Callable[..., SlateModel], batch: SlateBatch) -> None:
    model = make_model("llama")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert 1e-3 < self_check(model, model, batch, World(), "bf16") < 8e-2
        with pytest.raises(UserError, match="at most 1e-03"):
            self_check(model, model, batch, World(), "fp32")


@pytest.mark.parametrize("arch", ["llama", "bert"])
def test_an_attention_that_sees_too_little_stops_the_run(
    arch: str, make_model: Callable[..., SlateModel], batch: SlateBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(arch, random_adapters=False)  # as at the start of training
    whole = CandidateForward.prefix
    monkeypatch.setattr(CandidateForward, "prefix", lambda self, module: tuple(x * 0.5 for x in whole(self, module)))
    with pytest.raises(UserError, match=r"packed slates .* differ by .* set backbone\.attention=sdpa"):
        self_check(model, model, batch, World())


def test_fused_kernels_are_taken_where_they_agree(make_model: Callable[..., SlateModel], batch: SlateBatch) -> None:
    model = make_model("llama")
    settle_kernels(model, batch, World(), "fp32", "auto")
    assert model.kernels == "plain"  # on a CPU nothing is won
    settle_kernels(model, batch, World(), "fp32", "fused")
    assert model.kernels == "fused" and kernel_difference(model, batch) < 1e-5
    assert all(parameter.grad is None for parameter in model.parameters())


def test_fused_kernels_that_differ_are_refused_or_left(
    make_model: Callable[..., SlateModel], batch: SlateBatch, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    model = make_model("llama")
    monkeypatch.setattr(slates, "adapter_scale", lambda layers: 40.0)
    with pytest.raises(UserError, match=r"fused kernels differ .* set backbone\.kernels=plain"):
        settle_kernels(model, batch, World(), "fp32", "fused")
    assert model.kernels == "plain"

    def fail(*arguments: object) -> None:
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(slates.FusedSlates, "encode", fail)
    on_gpu = SimpleNamespace(input_ids=SimpleNamespace(device=torch.device("cuda")), model_inputs=batch.model_inputs)
    with caplog.at_level("INFO"):
        settle_kernels(model, on_gpu, World(), "fp32", "auto")  # type: ignore[arg-type]
    assert model.kernels == "plain" and "no kernel image" in caplog.text


def test_a_backbone_that_fused_kernels_do_not_know_is_plain(
    make_model: Callable[..., SlateModel], batch: SlateBatch, caplog: pytest.LogCaptureFixture
) -> None:
    on_gpu = SimpleNamespace(input_ids=SimpleNamespace(device=torch.device("cuda")), model_inputs=batch.model_inputs)
    with caplog.at_level("INFO"):
        settle_kernels(make_model("gpt2"), on_gpu, World(), "fp32", "auto")  # type: ignore[arg-type]
    assert "kernels: plain, since" in caplog.text and "not gpt2" in caplog.text
    with pytest.raises(UserError, match="not gpt2"):
        settle_kernels(make_model("gpt2"), batch, World(), "fp32", "fused")
