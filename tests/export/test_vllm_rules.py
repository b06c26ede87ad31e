"""Each rule of vLLM's LoRA loader, with a file that breaks it and nothing else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from equipoise.common.errors import UserError
from equipoise.configs.schema import BackboneConfig, LoraConfig
from equipoise.export.adapters import serve_as, write_adapter
from equipoise.export.vllm_rules import RULES, AdapterFile, check_adapter, largest_rank_option, why_not_vllm
from equipoise.modeling.base_config import load_model_config
from equipoise.modeling.model import ModelSpec, build_model

LAYERS = "model.layers"
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def folder(tiny_backbone: Callable[..., BackboneConfig], tmp_path: Path) -> Path:
    """A Llama's `ctr` adapter of rank 12 with rsLoRA, as it is exported."""
    backbone = tiny_backbone("llama")
    lora = LoraConfig(rank=12, alpha=24, rslora=True, scope="all")
    model = build_model(ModelSpec(backbone, lora, {"ctr": 1}, [], {}, 3))
    served = serve_as(load_model_config(backbone), "sequence_classification", lora.targets)
    assert served is not None
    write_adapter(tmp_path / "ctr", model, "ctr", served, lora, "base", None)
    return tmp_path / "ctr"


def first(tensors: Tensors, part: str) -> str:
    return next(key for key in sorted(tensors) if part in key)


def rename(old: str, new: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        for key in [key for key in tensors if old in key]:
            tensors[key.replace(old, new)] = tensors.pop(key)

    return change


def narrow(tensors: Tensors) -> None:
    key = first(tensors, "lora_A")
    tensors[key] = tensors[key][:5].contiguous()


def halve(tensors: Tensors) -> None:
    del tensors[first(tensors, "lora_B")]


def bias(tensors: Tensors) -> None:
    tensors[first(tensors, "lora_B").replace(".weight", ".bias")] = torch.zeros(3)


BROKEN_CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"r": None}, "lacks r"),
    ({"lora_alpha": None}, "lacks lora_alpha"),
    ({"r": 600}, "rank 600 fits no --max-lora-rank"),
    ({"r": 0}, "rank 0 fits no"),
    ({"rank_pattern": {"q_proj": 1024}}, "rank 1024 fits no"),
    ({"bias": "all"}, "biases are not supported"),
    ({"lora_bias": True}, "biases are not supported"),
    ({"use_dora": True}, "DoRA"),
    ({"peft_type": "ADALORA"}, "peft_type ADALORA"),
    ({"alora_invocation_tokens": [5]}, "activated LoRA"),
    ({"layer_replication": [[0, 2]]}, "replicated layers"),
    ({"use_bdlora": {"nblocks": 2}}, "block-diagonal"),
    ({"use_qalora": True}, "QALoRA"),
    ({"init_lora_weights": "pissa"}, "'pissa' changes the base"),
    ({"modules_to_save": ["score", "lm_head"]}, "modules_to_save holds lm_head"),
    ({"modules_to_save": None}, "score.weight is neither LoRA nor a saved head"),
    ({"target_modules": ["q_proj"]}, "none of target_modules"),
    ({"target_modules": ".*proj"}, "regular expression"),
]

BROKEN_TENSORS: list[tuple[Callable[[Tensors], None], str]] = [
    (bias, "is neither LoRA nor a saved head"),
    (rename("base_model.model.model.", "base_model.model."), "is not in the served model.layers"),
    (rename("base_model.model.model.", "model."), "is neither LoRA nor a saved head"),
    (rename("q_proj", "wq"), "none of target_modules"),
    (narrow, "not a pair of rank 12"),
    (halve, "not a pair of rank 12"),
]


def test_an_exported_adapter_keeps_every_rule(folder: Path) -> None:
    assert check_adapter(folder, LAYERS) == 16  # a rank between two sizes is served under the larger one
    assert [rule(AdapterFile.read(folder, LAYERS)) for rule in RULES] == [None] * len(RULES)


@pytest.mark.parametrize(("change", "sentence"), BROKEN_CONFIGS)
def test_a_broken_config_is_refused(folder: Path, change: dict[str, Any], sentence: str) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=f"ctr: vLLM would not load this adapter: .*{sentence}"):
        check_adapter(folder, LAYERS)


@pytest.mark.parametrize(("change", "sentence"), BROKEN_TENSORS)
def test_broken_tensors_are_refused(folder: Path, change: Callable[[Tensors], None], sentence: str) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(UserError, match=f"ctr: vLLM would not load this adapter: .*{sentence}"):
        check_adapter(folder, LAYERS)


def test_a_missing_or_damaged_file_is_refused(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    for damage in (lambda: file.write_bytes(b"\0" * 40), file.unlink):
        damage()
        with pytest.raises(UserError, match="missing, empty or unreadable"):
            check_adapter(folder, LAYERS)


def test_every_rule_has_a_file_that_breaks_it(folder: Path) -> None:
    about = json.loads((folder / "adapter_config.json").read_text())
    intact = AdapterFile.read(folder, LAYERS)
    files = [AdapterFile({**about, **change}, intact.shapes, LAYERS) for change, _ in BROKEN_CONFIGS]
    files.append(AdapterFile(about, None, LAYERS))
    for change, _ in BROKEN_TENSORS:
        tensors = load_file(folder / "adapter_model.safetensors")
        change(tensors)
        files.append(AdapterFile(about, {key: tuple(value.shape) for key, value in tensors.items()}, LAYERS))
    for rule in RULES:
        assert any(rule(file) for file in files), rule.__name__


def test_what_vllm_cannot_serve_at_all_is_said_not_refused() -> None:
    form = "sequence_classification"
    assert why_not_vllm(form, "all", "llama", encoder=False) is None
    assert "no such mask" in (why_not_vllm("features", "all", "bert", encoder=True) or "")
    assert "lora.scope: candidates" in (why_not_vllm(form, "candidates", "llama", encoder=False) or "")
    assert "whole slate" in (why_not_vllm("features", "all", "llama", encoder=False) or "")
    assert "without LoRA" in (why_not_vllm(form, "all", "gpt2", encoder=False) or "")
    assert "lora.ranks" in (why_not_vllm(form, "all", "llama", encoder=False, several_ranks=True) or "")


@pytest.mark.parametrize(("rank", "option"), [(1, 1), (4, 8), (8, 8), (12, 16), (257, 320), (512, 512)])
def test_the_option_is_the_next_size(rank: int, option: int) -> None:
    assert largest_rank_option(rank) == option
