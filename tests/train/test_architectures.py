"""A sample of families: packed slates equal the stock class on separate prompts, or the base is refused with why."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.architecture_shapes import SHAPES
from equipoise.common.errors import UserError
from equipoise.configs.schema import BackboneConfig, LoraConfig, RunConfig
from equipoise.data.batches import Slate, SlateBatch, build_batch
from equipoise.export.adapters import lora_tensors, serve_as
from equipoise.modeling.base_config import load_model_config
from equipoise.modeling.model import ModelSpec, SlateModel, build_model
from equipoise.train.parameters import reached_share
from equipoise.train.self_check import self_check
from equipoise.train.token_caches import check_lengths
from equipoise.train.world import World
from tests.tiny_run import run_settings

REFUSED = {
    "albert": "layers of AlbertModel cannot be found",
    "gemma3-wrapper": r"wraps a text tower \(gemma3_text\) with others: save the tower alone",
    "mamba": "layers of the kind linear_attention, mamba, which carry a state along the row",
    "qwen3_next": "layers of the kind linear_attention, which carry a state along the row",
}
TOO_SHORT = {
    "llama4-floor": "scales its queries by their place in the row from token 64 on: lower .*max_prefix to at most 39",
    "phi3-longrope": r"other rotary factors .* more than 43 tokens: lower tokens\.max_prefix to at most 19",
    "modernbert-window": r"sees a window of 17 tokens in some layers.*: lower tokens\.max_candidate, and",
}
RUN = sorted(set(SHAPES) - set(REFUSED) - set(TOO_SHORT))
MakeBase = Callable[..., BackboneConfig]


@pytest.fixture
def base(tmp_path: Path) -> MakeBase:
    """A config of the sample as a random base."""

    def write(name: str, **options: Any) -> BackboneConfig:
        (tmp_path / "base").mkdir(exist_ok=True)
        (tmp_path / "base" / "config.json").write_text(json.dumps(SHAPES[name]))
        return BackboneConfig(**{"path": str(tmp_path / "base"), "init": "random", "split": 2, **options})

    return write


def model_of(backbone: BackboneConfig, **lora: Any) -> SlateModel:
    return build_model(
        ModelSpec(backbone, LoraConfig(rank=4, alpha=8, **lora), {"ctr": 1}, ["diversity"], {"ctr": 0.0})
    )


@pytest.fixture
def batch(make_slate: Callable[..., Slate]) -> SlateBatch:
    return build_batch([make_slate(0, [5, 3, 7], prefix=9), make_slate(1, [2, 6], prefix=14)], 1000, 0)


@pytest.mark.parametrize("name", RUN)
def test_packed_slates_equal_the_stock_class(name: str, base: MakeBase, batch: SlateBatch) -> None:
    model = model_of(base(name), scope="candidates")
    assert self_check(model, model, batch, World()) < 1e-4
    assert 0 < reached_share(model) <= 1
    # What an export would write is what PEFT finds in the stock class.
    served = serve_as(load_model_config(base(name)), "features", "all-linear")
    assert served is not None
    written = {key.rpartition(".lora_")[0] for key in lora_tensors(model, "ctr", served.layers_name)}
    ends = tuple(f".{target}" for target in served.target_modules)
    assert all(f".{key}".endswith(ends) for key in written)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_be_served_is_refused_with_its_reason(name: str, base: MakeBase) -> None:
    with pytest.raises(UserError, match=REFUSED[name]):
        model_of(base(name))


@pytest.mark.parametrize("name", sorted(TOO_SHORT))
def test_prompts_that_would_depend_on_their_batch_are_refused(name: str, base: MakeBase, tmp_path: Path) -> None:
    settings = run_settings(tmp_path / "work")
    settings["backbone"] |= {"path": base(name).path}
    with pytest.raises(UserError, match=TOO_SHORT[name]):
        check_lengths(RunConfig.model_validate(settings))


def test_experts_keep_their_adapters_in_the_asked_layers(base: MakeBase) -> None:
    model = model_of(base("qwen3_moe-dense0"))
    places = {n.partition(".lora_")[0].rpartition(".")[2] for n, p in model.named_parameters() if ".lora_" in n}
    assert places == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert reached_share(model) < 0.5
    with pytest.raises(UserError, match="'gate_proj' is what PEFT takes for the experts of this architecture"):
        model_of(base("qwen3_moe-dense0"), targets=["q_proj", "gate_proj"])


@pytest.mark.parametrize("name", ["gemma2", "gpt_oss"])
def test_advice_on_attention_can_be_followed(name: str, base: MakeBase, batch: SlateBatch) -> None:
    for wanted in ("split", "sdpa"):
        with pytest.raises(UserError, match=f"cannot use '{wanted}': set backbone.attention=eager"):
            model_of(base(name, attention=wanted))
    model = model_of(base(name, attention="eager"))
    assert self_check(model, model, batch, World()) < 1e-4


def test_a_stock_class_that_depends_on_the_batch_is_found(base: MakeBase, make_slate: Callable[..., Slate]) -> None:
    # One prompt is behind the switch, the others before it.
    batch = build_batch([make_slate(0, [5, 3], prefix=9), make_slate(1, [2, 6], prefix=44)], 1000, 0)
    model = model_of(base("phi3-longrope"))
    with pytest.raises(UserError, match="gives other vectors for a prompt when others stand in its batch"):
        self_check(model, model, batch, World())


def test_an_adapter_that_nothing_passes_is_found(
    base: MakeBase, batch: SlateBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(base("llama"))
    projection = model.layers()[1].mlp.down_proj
    monkeypatch.setattr(type(projection), "forward", lambda self, x: self.base_layer(x), raising=True)
    with pytest.raises(UserError, match=r"layer 0's .* is never called as a module"):
        self_check(model, model, batch, World())


def test_what_an_architecture_trips_over_is_one_sentence(
    base: MakeBase, batch: SlateBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(base("llama"))

    def trip(*inputs: object, **arguments: object) -> torch.Tensor:
        raise IndexError("tuple index out of range")

    monkeypatch.setattr(model.backbone.upper[0], "forward", trip)
    with pytest.raises(UserError, match=r"LlamaModel cannot be run on packed slates \(IndexError: tuple index"):
        self_check(model, model, batch, World())
