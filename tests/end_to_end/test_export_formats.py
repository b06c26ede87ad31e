"""Merged, ONNX and activated forms: reloaded in a process without the project, refused where they would be wrong."""

import importlib.util
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from equipoise.common.errors import UserError
from equipoise.export.formats import Formats
from equipoise.export.golden import run_check
from equipoise.export.write import export_run
from equipoise.launch.cli import app
from tests.card_code import run_python
from tests.export_record import write_record
from tests.export_run import LISTWISE, write_tiny_run

pytestmark = pytest.mark.slow

OBJECTIVES = ("ctr", "cvr", *LISTWISE)
Exported = Callable[[str], tuple[Path, Path]]
KINDS = {
    "llama": Formats(merged=True),
    "gpt2": Formats(merged=True, dtype="bfloat16"),
    "bert": Formats(merged=True, onnx=True),
    "bert-candidates": Formats(onnx=True, int8=True),
    "llama-candidates": Formats(),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> Exported:
    """ARCHITECTURE or ARCHITECTURE-candidates → (run, export with its KINDS), each made and checked once."""
    made: dict[str, tuple[Path, Path]] = {}

    def make(name: str) -> tuple[Path, Path]:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            arch, _, scope = name.partition("-")
            run = write_tiny_run(folder, prepared, arch, scope or "all", "mean" if arch == "bert" else "last")
            export_run(run, folder / "out", golden=6, formats=KINDS[name])
            made[name] = run, folder / "out"
        return made[name]

    return make


def serving(out: Path) -> dict[str, Any]:
    return json.loads((out / "serving.json").read_text())


def copied(out: Path, target: Path) -> Path:
    """A copy whose base is shared and whose checks cost one load: only `ctr` is left."""
    shutil.copytree(out, target)
    record = serving(target)
    record["objectives"] = {"ctr": record["objectives"]["ctr"]}
    del record["files"]  # so that the scores alone can tell
    write_record(target, record)
    return target


def changed(file: Path, key_part: str) -> None:
    tensors = load_file(file)
    key = next(key for key in sorted(tensors) if key_part in key)
    tensors[key] = tensors[key] * 1.2
    save_file(tensors, file, {"format": "pt"})


@pytest.mark.parametrize("name", [*KINDS])
def test_every_format_gives_the_golden_scores_without_the_project(exported: Exported, name: str) -> None:
    _, out = exported(name)  # the export ran its own check
    record = serving(out)
    expected = {
        "llama": {"merged"},
        "gpt2": {"merged"},
        "bert": {"merged", "onnx"},
        "bert-candidates": {"onnx"},
        "llama-candidates": {"alora"},
    }
    assert set(record["formats"]) == expected[name]
    for kind in record["formats"]:
        assert (out / kind).is_dir()
    if name == "llama":
        differences = run_check(out)
        assert set(differences) == {*OBJECTIVES, *(f"merged/{one}" for one in OBJECTIVES)}
        assert max(differences.values()) <= 1e-4


def test_merged_checkpoints_stand_alone(exported: Exported) -> None:
    _, out = exported("llama")
    config = json.loads((out / "merged" / "ctr" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert config["pad_token_id"] == serving(out)["pad_token_id"]
    assert config["logit_offset"] == -2.5
    assert not any("lora" in key for key in load_file(out / "merged" / "ctr" / "model.safetensors"))
    assert (out / "merged" / "ctr" / "tokenizer.json").is_file()
    assert (out / "merged" / "diversity" / "slate_head.safetensors").is_file()


def test_bfloat16_halves_the_checkpoints_and_says_its_tolerance(exported: Exported) -> None:
    _, out = exported("gpt2")
    weights = load_file(out / "merged" / "cvr" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert serving(out)["formats"]["merged"]["tolerance"] == 0.05
    assert serving(out)["vllm"]["ctr"]["why_not"].startswith("vLLM serves gpt2 without LoRA")


@pytest.mark.parametrize(
    ("name", "file", "key"),
    [
        ("llama", "merged/ctr/model.safetensors", "layers.1.self_attn.q_proj"),
        ("llama-candidates", "alora/shared/adapter_model.safetensors", "lora_B"),
        ("llama-candidates", "alora/ctr/adapter_model.safetensors", "lora_B"),
        ("bert", "merged/ctr/head.safetensors", "score"),
    ],
)
def test_a_changed_tensor_fails_the_check(exported: Exported, tmp_path: Path, name: str, file: str, key: str) -> None:
    out = copied(exported(name)[1], tmp_path / "copy")
    changed(out / file, key)
    with pytest.raises(UserError, match=r"golden check FAILED"):
        run_check(out)


def test_a_graph_of_another_training_fails_the_check(exported: Exported, tmp_path: Path) -> None:
    out = copied(exported("bert-candidates")[1], tmp_path / "copy")
    shutil.copyfile(exported("bert")[1] / "onnx" / "model.onnx", out / "onnx" / "model.onnx")  # scope: all
    with pytest.raises(UserError, match=r"golden check FAILED.*onnx/ctr"):
        run_check(out)


def test_activated_adapters_are_those_of_peft(exported: Exported) -> None:
    _, out = exported("llama-candidates")
    shared, ctr = (json.loads((out / "alora" / one / "adapter_config.json").read_text()) for one in ("shared", "ctr"))
    assert shared["alora_invocation_tokens"] is None
    assert shared["modules_to_save"] is None
    assert ctr["alora_invocation_tokens"] == serving(out)["layout"]["prefix_end_ids"]
    tensors = load_file(out / "alora" / "ctr" / "adapter_model.safetensors")
    layers = {key.split(".layers.")[1][0] for key in tensors if ".layers." in key}
    assert layers == {"1", "2"}


def test_the_report_measures_both_graphs(exported: Exported) -> None:
    _, out = exported("bert-candidates")
    report = json.loads((out / "onnx" / "report.json").read_text())
    counts = {"candidates": 29, "clicks": 10, "clicked_conversions": 10}
    assert report["sample"] == {"split": "test", "slates": 6, **counts}
    engines = report["engines"]
    assert set(engines) == {"torch", "onnx float32", "onnx int8"}
    exact, rough = engines["onnx float32"], engines["onnx int8"]
    assert max(exact["max_difference"].values()) <= 1e-4
    assert 1e-4 < max(rough["max_difference"].values()) < 1
    assert exact["auc"]["ctr"] == pytest.approx(engines["torch"]["auc"]["ctr"], abs=1e-6)
    assert rough["bytes"] < exact["bytes"]
    assert all(engine["ms_per_slate"] > 0 for engine in engines.values())


@pytest.mark.parametrize("name", ["bert", "bert-candidates"])
def test_the_code_in_the_readme_runs_as_it_stands(exported: Exported, name: str) -> None:
    assert run_python(exported(name)[1]) == ["ctr", "diversity", "ctr"]


@pytest.mark.parametrize(
    ("name", "formats", "sentence"),
    [
        ("llama-candidates", "merged", "merged they would also change the prefix.*lora.scope=all"),
        ("llama", "onnx", "this backbone is a decoder"),
        ("llama", "gguf", "'gguf' is none of peft, merged, onnx"),
        ("llama", "peft --int8", "--int8 belongs to --format onnx"),
        ("llama", "peft --dtype bfloat16", "--dtype belongs to --format merged"),
        ("llama", "merged --dtype float16", "'float16' is none of float32, bfloat16"),
    ],
)
def test_a_format_that_would_be_wrong_is_refused(
    exported: Exported, tmp_path: Path, name: str, formats: str, sentence: str
) -> None:
    run, _ = exported(name)
    arguments = ["export", str(run), str(tmp_path / "out"), "--format", *formats.split()]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, UserError)
    assert re.search(sentence, str(result.exception))
    assert not (tmp_path / "out").exists()


def test_a_full_disk_and_a_missing_extra_are_refused(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 10_000})()
    with monkeypatch.context() as patch:
        patch.setattr("equipoise.export.formats.shutil.disk_usage", lambda path: usage)
        with pytest.raises(UserError, match=r"GiB: make room"):
            export_run(exported("llama")[0], tmp_path / "out", golden=1, formats=Formats(merged=True))
    with monkeypatch.context() as patch:
        find = importlib.util.find_spec
        patch.setattr(
            importlib.util, "find_spec", lambda name, *more: None if name[:4] == "onnx" else find(name, *more)
        )
        with pytest.raises(UserError, match=r"pip install 'equipoise\[onnx\]'"):
            export_run(exported("bert")[0], tmp_path / "out", golden=1, formats=Formats(onnx=True))
    assert not list(tmp_path.iterdir())


def test_an_adapter_that_vllm_would_refuse_is_not_exported(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = exported("llama")
    record = serving(out)
    assert record["vllm"]["ctr"] == {"serves": True, "why_not": None, "max_lora_rank": 8}
    assert not record["vllm"]["diversity"]["serves"]
    assert "--max-lora-rank 8" in (out / "README.md").read_text()
    monkeypatch.setattr("equipoise.export.vllm_rules.RANKS", (1, 2))
    with pytest.raises(UserError, match=r"ctr: vLLM would not load this adapter: rank 4 fits no --max-lora-rank"):
        export_run(run, tmp_path / "out", golden=1)
    assert not list(tmp_path.iterdir())
