"""The exported names are those that PEFT itself gives a model of the served class."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForSequenceClassification, PretrainedConfig

from equipoise.common.errors import UserError
from equipoise.configs.schema import BackboneConfig, LoraConfig
from equipoise.export.adapters import lora_tensors, serve_as, write_adapter
from equipoise.export.golden_check import prompt_ids
from equipoise.export.serving_record import choose_pad_id
from equipoise.modeling.base_config import load_model_config
from equipoise.modeling.model import ModelSpec, SlateModel, build_model

LORA = LoraConfig(rank=4, alpha=8.0)
DECODERS = ("llama", "qwen3", "mistral", "gpt2")


def stock(config: PretrainedConfig, form: str) -> torch.nn.Module:
    config.num_labels = 1
    if form == "features":
        return AutoModel.from_config(config)
    return AutoModelForSequenceClassification.from_config(config)


@pytest.mark.parametrize(
    ("arch", "form"),
    [*((arch, "sequence_classification") for arch in DECODERS), ("llama", "features"), ("bert", "features")],
)
@pytest.mark.parametrize("targets", ["all-linear", "attention"])
def test_keys_and_shapes_are_those_of_a_reference_adapter(
    tiny_backbone: Callable[..., BackboneConfig], tmp_path: Path, arch: str, form: str, targets: str
) -> None:
    backbone, lora = tiny_backbone(arch), LORA.model_copy(update={"targets": targets, "rslora": True})
    model = build_model(ModelSpec(backbone, lora, {"ctr": 2}, [], {}, 3))
    config = load_model_config(backbone)
    served = serve_as(config, form, lora.targets)  # type: ignore[arg-type]
    assert served is not None
    write_adapter(tmp_path / "ours", model, "ctr", served, lora, "base", None)
    about = json.loads((tmp_path / "ours" / "adapter_config.json").read_text())
    kept = ("target_modules", "task_type", "r", "lora_alpha", "use_rslora", "modules_to_save", "bias", "fan_in_fan_out")
    reference = get_peft_model(stock(config, form), PeftLoraConfig(**{key: about[key] for key in kept}))
    reference.save_pretrained(str(tmp_path / "theirs"))
    ours, theirs = (load_file(tmp_path / who / "adapter_model.safetensors") for who in ("ours", "theirs"))
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}
    loaded = PeftModel.from_pretrained(stock(config, form), str(tmp_path / "ours"))
    result = loaded.load_adapter(str(tmp_path / "ours"), "again")
    assert not [key for key in result.missing_keys if "again" in key]
    assert not result.unexpected_keys


def test_layers_above_the_split_get_their_own_numbers_back(make_model: Callable[..., SlateModel]) -> None:
    model = make_model("llama")
    tensors = lora_tensors(model, "diversity", "layers")
    trained = dict(model.named_parameters())
    for layer, ours in ((1, "trunk.layers.1.{}.shared"), (3, "upper.1.{}.diversity")):
        key = f"base_model.model.layers.{layer}.self_attn.q_proj.lora_B.weight"
        name = "backbone." + ours.format("self_attn.q_proj.lora_B") + ".weight"
        assert torch.equal(tensors[key], trained[name])
    assert len(tensors) == 4 * 7 * 2


def test_target_names_are_plain_and_match_nothing_else(tiny_backbone: Callable[..., BackboneConfig]) -> None:
    llama, bert = (load_model_config(tiny_backbone(arch)) for arch in ("llama", "bert"))
    short = serve_as(llama, "sequence_classification", "attention")
    assert short is not None
    assert short.target_modules == ["k_proj", "q_proj", "v_proj"]
    layered = serve_as(bert, "features", "all-linear")
    assert layered is not None
    assert "attention.output.dense" in layered.target_modules  # "dense" alone would match the pooler as well
    # As an ending, output.dense would match attention.output.dense too, so the full names are given.
    full = serve_as(bert, "features", ["output.dense"])
    assert full is not None
    assert all(name.startswith("encoder.layer.") for name in full.target_modules)


def test_encoders_have_no_plain_score(tiny_backbone: Callable[..., BackboneConfig]) -> None:
    assert serve_as(load_model_config(tiny_backbone("bert")), "sequence_classification", "all-linear") is None


def test_the_padding_never_ends_a_prompt() -> None:
    config = SimpleNamespace(pad_token_id=7, vocab_size=10)
    tokenizer = SimpleNamespace(pad_token_id=7, eos_token_id=12, unk_token_id=3)
    assert choose_pad_id(config, tokenizer, [5]) == 7
    assert choose_pad_id(config, tokenizer, [7]) == 3
    assert choose_pad_id(SimpleNamespace(vocab_size=10), SimpleNamespace(), [0]) == 1
    with pytest.raises(UserError, match="no token is left"):
        choose_pad_id(SimpleNamespace(vocab_size=1), SimpleNamespace(), [0])


@pytest.mark.parametrize("context", ["", "one two", "one two three four five six seven"])
@pytest.mark.parametrize("words", [1, 5, 30])
def test_the_check_lays_ids_out_as_training_does(context: str, words: int) -> None:
    from equipoise.configs.schema import TokensConfig
    from equipoise.data.tokens import SlateTokenizer

    class Words:
        cls_token_id, sep_token_id, pad_token_id = 1, 2, 0

        def __call__(self, texts: str | list[str], **options: object) -> dict[str, object]:
            if isinstance(texts, str):
                return {"input_ids": self([texts])["input_ids"][0]}  # type: ignore[index]
            return {"input_ids": [[3 + len(word) for word in text.split()] for text in texts]}

    item, limits = "word " * words, TokensConfig(max_prefix=8, max_candidate=7, max_row=32)
    ours = SlateTokenizer(Words(), limits, True, [item])
    layout = {
        "start_ids": ours.start,
        "prefix_end_ids": ours.prefix_end,
        "candidate_end_ids": ours.candidate_end,
        "context_separator": ours.separator,
        "max_prefix": 8,
        "max_candidate": 7,
    }
    found = prompt_ids(Words(), layout, item, item, context)
    assert found == (ours.prefix(item), ours.candidates([0], [context])[0])
