"""An export loaded back is the model that was exported."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from equipoise.common.errors import UserError
from equipoise.data.batches import Slate, build_batch
from equipoise.export.check_process import run_check
from equipoise.export.formats import Formats
from equipoise.export.load import load_export
from equipoise.export.serving_record import read_serving_record
from equipoise.modeling.model import SlateModel
from equipoise.modeling.run_model import load_run_model
from tests.export_record import write_record

KINDS = [
    ("llama", "all", "last"),
    ("llama", "candidates", "last"),
    ("gpt2", "all", "last"),
    ("gpt2", "candidates", "last"),
    ("bert", "all", "last"),
    ("bert", "candidates", "last"),
    ("bert", "all", "mean"),
    ("bert", "candidates", "mean"),
]


def scores(model: SlateModel, prefix: list[int], candidates: list[list[int]]) -> dict[str, list[float]]:
    nothing = np.zeros(len(candidates), dtype=np.int64)
    batch = build_batch([Slate(0, prefix, candidates, nothing, nothing, nothing)], 4096, 0)
    with torch.inference_mode():
        return {name: value.tolist() for name, value in model.score(batch.model_inputs()).items()}


@pytest.mark.parametrize(("arch", "scope", "pooling"), KINDS)
def test_golden_logits(arch: str, scope: str, pooling: str, tiny_export: Callable[..., Any]) -> None:
    export = tiny_export(arch, scope, pooling=pooling)
    model = load_export(export.folder)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.training
    prompts = [json.loads(line) for line in (export.folder / "golden.jsonl").read_text().splitlines()]
    for prompt in prompts:
        ids, stop = prompt["input_ids"], prompt["prefix_tokens"]
        found = scores(model, ids[:stop], [ids[stop:]])
        for name, golden in prompt["logit"].items():
            assert found[name][0] - model.offsets[name] == pytest.approx(golden, abs=1e-4, rel=1e-4)
    slate = json.loads((export.folder / "golden_slate.json").read_text())
    found = scores(model, slate["prefix_ids"], slate["candidate_ids"])
    for name, golden in slate["delta"].items():
        assert np.ptp(golden) > 1e-3
        assert found[name] == pytest.approx(golden, abs=1e-4, rel=1e-4)


def test_all_tensors_are_those_of_the_run(tiny_export: Callable[..., Any]) -> None:
    export = tiny_export("bert")
    loaded = dict(load_export(export.folder).named_parameters())
    trained = dict(load_run_model(export.config, export.config.output / "adapters").named_parameters())
    assert loaded.keys() == trained.keys()
    changed = [name for name, p in trained.items() if not torch.equal(p, loaded[name])]
    assert not changed


@pytest.fixture
def copied(tiny_export: Callable[..., Any], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_export("bert").folder, tmp_path / "export"))


def change_record(folder: Path, change: Callable[[dict], object]) -> None:
    record = json.loads((folder / "serving.json").read_text())
    change(record)
    write_record(folder, record)


def change_tensors(path: Path, change: Callable[[dict], object]) -> None:
    """Change a file of an export of before, whose record does not vouch for it."""
    change_record(path.parents[1], lambda record: record.pop("files", None))
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_no_export(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not an export .*run `equipoise export` first"):
        load_export(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"schema_version": 99}'])
def test_a_broken_record(content: str, copied: Path) -> None:
    (copied / "serving.json").write_text(content)
    with pytest.raises(UserError, match=r"serving\.json.*export the run again"):
        read_serving_record(copied)


def test_another_base(copied: Path) -> None:
    change_record(copied, lambda record: record["base"].update(config_hash="0" * 16))
    with pytest.raises(UserError, match="belongs to another base model"):
        load_export(copied)


def test_other_weights_of_the_base(copied: Path) -> None:
    change_record(copied, lambda record: record["base"].update(weights_sha256={"model.safetensors": "0" * 64}))
    with pytest.raises(UserError, match=r"model\.safetensors is not the base model"):
        load_export(copied)


def test_a_base_that_lies_nowhere(copied: Path) -> None:
    lost = {"inside_export": False, "path": "/nowhere/base", "configured": "/nowhere/else"}
    change_record(copied, lambda record: record["base"].update(lost))
    with pytest.raises(UserError, match=r"needs its base model, but /nowhere/base is no folder here"):
        load_export(copied)


def test_shared_tensors_that_differ(copied: Path) -> None:
    def change(tensors: dict) -> None:
        key = next(key for key in tensors if ".layer.0." in key and "lora_B" in key)
        tensors[key] = tensors[key] + 1

    change_tensors(copied / "cvr" / "adapter_model.safetensors", change)
    with pytest.raises(UserError, match=r"/cvr: the shared tensor .*layer\.0.* is another one there"):
        load_export(copied)


@pytest.mark.parametrize("objective", ["ctr", "fairness"])
def test_a_tensor_that_is_missing(objective: str, copied: Path) -> None:
    def change(tensors: dict) -> None:
        del tensors[next(key for key in tensors if ".layer.3." in key)]

    change_tensors(copied / objective / "adapter_model.safetensors", change)
    with pytest.raises(UserError, match=r"lacks tensors or has strange ones"):
        load_export(copied)


@pytest.mark.parametrize("name", ["base_model.model.stray.weight", "base_model.model.encoder.layer.9.x.lora_A.weight"])
def test_a_tensor_without_a_place(name: str, copied: Path) -> None:
    change_tensors(copied / "ctr" / "adapter_model.safetensors", lambda tensors: tensors.update({name: torch.ones(2)}))
    with pytest.raises(UserError, match=r"does not belong to the model|strange ones|is no linear module"):
        load_export(copied)


@pytest.mark.parametrize(
    "file", ["ctr/adapter_config.json", "cvr/adapter_model.safetensors", "cvr/head.safetensors",
             "diversity/slate_head.safetensors"]
)  # fmt: skip
def test_a_file_that_is_missing_or_broken(file: str, copied: Path) -> None:
    change_record(copied, lambda record: record.pop("files"))
    (copied / file).write_text("broken")
    with pytest.raises(UserError, match=rf"{file} is missing or broken"):
        load_export(copied)
    (copied / file).unlink()
    with pytest.raises(UserError, match=rf"{file} is missing or broken"):
        load_export(copied)


def test_adapters_of_different_shapes(copied: Path) -> None:
    path = copied / "cvr" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "lora_alpha": 99}))
    change_record(copied, lambda record: record.pop("files"))
    with pytest.raises(UserError, match="the adapters of ctr and cvr differ in shape"):
        load_export(copied)


def exchange(one: Path, other: Path) -> None:
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


@pytest.mark.parametrize("file", ["head.safetensors", "adapter_model.safetensors"])
def test_exchanged_files_are_refused_by_servers_and_the_golden_check(file: str, copied: Path) -> None:
    exchange(copied / "ctr" / file, copied / "cvr" / file)
    with pytest.raises(UserError, match=rf"ctr/{file} is not the file that was exported: restore it"):
        load_export(copied)
    with pytest.raises(UserError, match=rf"ctr/{file} is not the file that was exported"):
        run_check(copied)


def test_another_base_in_the_export_is_refused_by_servers_and_the_golden_check(copied: Path) -> None:
    weights = copied / "base" / "model.safetensors"
    save_file({name: tensor * 1.001 for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    with pytest.raises(UserError, match=r"base/model\.safetensors is not the base model"):
        load_export(copied)
    with pytest.raises(UserError, match=r"base/model\.safetensors is not the base model"):
        run_check(copied)


def test_another_strength_of_the_adapters_is_refused(copied: Path) -> None:
    for config in copied.glob("*/adapter_config.json"):
        config.write_text(json.dumps({**json.loads(config.read_text()), "lora_alpha": 64}))
    change_record(copied, lambda record: record.pop("files"))
    with pytest.raises(UserError, match=r"were exported with .*'alpha': 8.* not .*'alpha': 64"):
        load_export(copied)


def test_an_export_of_before_loads_with_a_note(copied: Path, caplog: pytest.LogCaptureFixture) -> None:
    def forget(record: dict) -> None:
        del record["files"], record["adapter_shape"]
        record["base"]["weights_sha256"] = None

    change_record(copied, forget)
    with caplog.at_level("INFO"):
        load_export(copied)
    assert "without hashes of its files" in caplog.text and "without hashes of its base" in caplog.text


@pytest.mark.parametrize(
    ("arch", "scope"), [("llama", "all"), ("llama", "candidates"), ("gpt2", "all"), ("bert", "all")]
)
def test_an_apart_trunk_is_checked_in_the_stock_class(
    arch: str, scope: str, tiny_export: Callable[..., Any], tmp_path: Path
) -> None:
    export = tiny_export(arch, scope, trunk="apart")
    assert load_export(export.folder).backbone.apart
    assert max(run_check(export.folder).values()) < 1e-4
    record = json.loads((export.folder / "serving.json").read_text())
    assert record["restarts"] == (arch != "llama")
    assert record["formats"].get("alora") is None
    assert all("trunk: apart" in about["why_not"] for about in record["vllm"].values())
    copied = tmp_path / "copied"
    shutil.copytree(export.folder, copied)
    change_record(copied, lambda record: record.update(trunk="joint"))
    with pytest.raises(UserError, match="golden check FAILED"):
        run_check(copied)


def test_an_apart_trunk_has_no_merged_checkpoints(tiny_export: Callable[..., Any]) -> None:
    export = tiny_export("llama", "all", trunk="apart")
    with pytest.raises(UserError, match=r"--format merged: backbone\.trunk: apart"):
        Formats.parse("merged").check(export.config)
