"""Exports of small runs, proved in processes that cannot import the project."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from equipoise.common.errors import UserError
from equipoise.common.hashing import file_hash
from equipoise.export.check_process import run_check
from equipoise.export.write import export_run
from equipoise.launch.cli import main
from equipoise.serving.recommender import Recommender
from tests.card_code import blocks, request_of, run_python
from tests.export_record import write_record
from tests.export_run import (
    ARCHITECTURES,
    HISTORY,
    LISTWISE,
    PROMPT,
    TOKENIZER,
    write_run,
    write_tiny_run,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> Callable[[str], tuple[Path, Path]]:
    """Architecture, or ARCHITECTURE-SCOPE, or ARCHITECTURE-mean → (run, export), each made once."""
    made: dict[str, tuple[Path, Path]] = {}

    def make(name: str) -> tuple[Path, Path]:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            arch, _, special = name.partition("-")
            pooling = "mean" if special == "mean" else "last"
            write_tiny_run(folder, prepared, arch, "candidates" if special == "candidates" else "all", pooling)
            export_run(folder / "run", folder / "out", golden=12)
            made[name] = (folder / "run", folder / "out")
        return made[name]

    return make


def golden_prompts(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "golden.jsonl").read_text().splitlines()]


SCOPED = ["llama-candidates", "gpt2-candidates", "bert-candidates"]


@pytest.mark.parametrize("name", [*ARCHITECTURES, *SCOPED, "bert-mean"])
def test_every_architecture_gives_its_golden_logits_without_the_project(
    exported: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, out = exported(name)
    if name in ("llama-candidates", "bert"):
        monkeypatch.setattr("equipoise.export.check_process.subprocess", subprocess)  # a new process, as users have it
    prompts = golden_prompts(out)
    assert len(prompts) == 12
    assert {prompt["slate"] for prompt in prompts} == set(range(6))
    for objective in ("ctr", "cvr"):
        logits = [prompt["logit"][objective] for prompt in prompts]
        assert max(logits) - min(logits) > 0.1
    slate = json.loads((out / "golden_slate.json").read_text())
    for objective in LISTWISE:
        assert np.ptp(slate["delta"][objective]) > 1e-3
    differences = run_check(out)
    objectives = {"ctr", "cvr", *LISTWISE}
    activated = name in ("llama-candidates", "gpt2-candidates")
    assert set(differences) == objectives | ({f"alora/{one}" for one in objectives} if activated else set())
    assert max(differences.values()) <= 1e-4
    assert not list(out.parent.glob(".out-*"))


@pytest.mark.parametrize("name", ["llama", "bert", "bert-mean", "llama-candidates", "bert-candidates"])
def test_the_code_in_the_readme_runs_as_it_stands(exported: Any, name: str) -> None:
    _, out = exported(name)
    activated = ["ctr"] if name == "llama-candidates" else []
    assert run_python(out) == ["ctr", "diversity", *activated]
    assert {"prefix", "candidates"} <= set(request_of(out))


def test_the_shell_code_of_the_readme_makes_a_base_with_a_head(exported: Any, tmp_path: Path) -> None:
    """What vLLM is started on; vLLM itself and the network are stand-ins that print what they are given."""
    _, out = exported("llama")
    copy = Path(shutil.copytree(out, tmp_path / "copy"))
    (block,) = (block for block in blocks(copy, "bash") if "vllm serve" in block)
    stand_ins = 'set -e\nvllm() { echo vllm "$@"; }\ncurl() { echo curl "${@: -1}"; }\npython() { "$PYTHON" "$@"; }\n'
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable}
    done = subprocess.run(["bash", "-c", stand_ins + block], cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    started, asked = (line for line in done.stdout.splitlines() if line.startswith(("vllm ", "curl ")))
    assert f"ctr={copy}/ctr cvr={copy}/cvr" in started and "--max-lora-rank 8" in started
    body = json.loads(asked.removeprefix("curl "))
    golden = json.loads((copy / "golden_slate.json").read_text())
    assert body["model"] == "ctr" and body["input"] == [[*golden["prefix_ids"], *golden["candidate_ids"][0]]]
    config = AutoConfig.from_pretrained(copy / "base_with_score")
    assert config.architectures == ["LlamaForSequenceClassification"] and config.num_labels == 1
    assert (copy / "base_with_score" / "tokenizer.json").is_file()


@pytest.mark.parametrize(("name", "form"), [("llama", "sequence_classification"), ("bert", "features")])
def test_serving_json_says_what_a_server_needs(exported: Any, name: str, form: str) -> None:
    _, out = exported(name)
    serving = json.loads((out / "serving.json").read_text())
    assert serving["schema_version"] == 1
    assert serving["prompt"] == PROMPT
    assert serving["history"] == HISTORY
    assert serving["objectives"]["ctr"]["form"] == form
    assert serving["objectives"]["ctr"]["logit_offset"] == -2.5
    assert serving["operating_point"]["omega"] == dict.fromkeys(LISTWISE, 0.0)
    assert serving["pad_token_id"] not in serving["layout"]["candidate_end_ids"]
    assert (serving["mask"], serving["pooling"]) == ("prefix" if name == "bert" else "causal", "last")
    assert serving["base"]["inside_export"]
    assert serving["base"]["weights_sha256"] == {"model.safetensors": file_hash(out / "base" / "model.safetensors")}
    adapter = json.loads((out / "ctr" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == str(out / "base")
    assert isinstance(adapter["target_modules"], list)
    assert adapter["task_type"] == ("FEATURE_EXTRACTION" if name == "bert" else "SEQ_CLS")


def damaged(out: Path, copy: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    shutil.copytree(out, copy)
    file = copy / "ctr" / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    record = json.loads((copy / "serving.json").read_text())
    del record["files"]  # so that the scores alone can tell
    write_record(copy, record)
    return copy


def lora_key(tensors: dict[str, torch.Tensor], layer: int) -> str:
    return next(key for key in sorted(tensors) if f".{layer}." in key and "lora_B" in key)


@pytest.mark.parametrize("name", ["llama", "llama-candidates"])
def test_another_scope_fails_the_golden_check(exported: Any, tmp_path: Path, name: str) -> None:
    _, out = exported(name)
    shutil.copytree(out, tmp_path / "copy")
    file = tmp_path / "copy" / "serving.json"
    serving = json.loads(file.read_text())
    assert serving["scope"] == ("candidates" if "candidates" in name else "all")
    serving["scope"] = "all" if serving["scope"] == "candidates" else "candidates"
    write_record(file.parent, serving)
    with pytest.raises(UserError, match="golden check FAILED"):
        run_check(tmp_path / "copy")


@pytest.mark.parametrize("layer", [0, 2])
def test_one_changed_tensor_fails_the_golden_check(exported: Any, tmp_path: Path, layer: int) -> None:
    _, out = exported("llama")

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[lora_key(tensors, layer)] += 0.05

    with pytest.raises(UserError, match=r"golden check FAILED.*ctr"):
        run_check(damaged(out, tmp_path / "copy", change))


def test_a_missing_or_unexpected_tensor_fails_the_golden_check(exported: Any, tmp_path: Path) -> None:
    _, out = exported("llama")

    def drop(tensors: dict[str, torch.Tensor]) -> None:
        del tensors[lora_key(tensors, 1)]

    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors[lora_key(tensors, 1).replace(".1.", ".7.")] = torch.zeros(1, 4)

    for number, change in enumerate((drop, add)):
        with pytest.raises(UserError, match="1 adapter tensors do not fit"):
            run_check(damaged(out, tmp_path / str(number), change))


def test_the_check_sees_a_wrong_prompt_layout(exported: Any, tmp_path: Path) -> None:
    _, out = exported("bert")
    shutil.copytree(out, tmp_path / "copy")
    file = tmp_path / "copy" / "serving.json"
    serving = json.loads(file.read_text())
    serving["layout"]["prefix_end_ids"] = []
    write_record(file.parent, serving)
    with pytest.raises(UserError, match="gives other ids"):
        run_check(tmp_path / "copy")


def test_an_export_can_move(exported: Any, tmp_path: Path) -> None:
    _, out = exported("gpt2")
    shutil.copytree(out, tmp_path / "elsewhere" / "moved")
    assert max(run_check(tmp_path / "elsewhere" / "moved").values()) <= 1e-4


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_a_packed_base_gives_its_golden_logits_packed_alone(
    prepared: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes")
    monkeypatch.setattr("equipoise.export.check_process.subprocess", subprocess)
    AutoConfig.for_model(name, **ARCHITECTURES[name]).save_pretrained(tmp_path / "shape")
    write_run(
        tmp_path / "run", prepared, {"path": str(tmp_path / "shape"), "init": "random", "quantize": "4bit"}, LISTWISE
    )
    out = tmp_path / "out"
    export_run(tmp_path / "run", out, golden=4)
    assert max(run_check(out).values()) <= 1e-4
    assert run_python(out) == ["ctr", "diversity"]
    file = out / "serving.json"
    serving = json.loads(file.read_text())
    serving["base"]["quantization"] = None
    write_record(out, serving)
    with pytest.raises(UserError, match="golden check FAILED"):
        run_check(out)


def test_an_existing_folder_is_kept(exported: Any, tmp_path: Path) -> None:
    run, out = exported("llama")
    before = (out / "serving.json").read_bytes()
    with pytest.raises(UserError, match="--overwrite"):
        export_run(run, out)
    assert (out / "serving.json").read_bytes() == before
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not an export"):
        export_run(run, tmp_path, overwrite=True)
    with pytest.raises(UserError, match="holds the run"):
        export_run(run, run, overwrite=True)
    with pytest.raises(UserError, match="lies in the run"):
        export_run(run, run / "export")
    with pytest.raises(UserError, match=r"notes.txt/export cannot be written \(Not a directory\)"):
        export_run(run, tmp_path / "notes.txt" / "export")


def test_overwrite_replaces_an_export_and_a_failure_keeps_the_old_one(
    exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = exported("llama")
    target = tmp_path / "out"
    shutil.copytree(out, target)

    def refuse(folder: Path) -> dict[str, float]:
        raise UserError("the worst difference is 3")

    with monkeypatch.context() as patch:
        patch.setattr("equipoise.export.write.run_check", refuse)
        with pytest.raises(UserError, match="worst difference"):
            export_run(run, target, golden=2, overwrite=True)
    assert len(golden_prompts(target)) == 12
    (run / "evaluation_test.json").write_text('{"pointwise": {"ctr": {"auc": 0.9}}, "verdict": ["ours wins"]}')
    export_run(run, target, golden=2, overwrite=True)
    (run / "evaluation_test.json").unlink()
    assert len(golden_prompts(target)) == 2
    assert "auc 0.9" in (target / "README.md").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_missing_adapters_are_refused(exported: Any, tmp_path: Path) -> None:
    run, _ = exported("llama")
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match=r"config\.yaml is missing"):
        export_run(tmp_path / "run", tmp_path / "out")
    shutil.copy(run / "config.yaml", tmp_path / "run")
    with pytest.raises(UserError, match="no trained adapters"):
        export_run(tmp_path / "run", tmp_path / "out")
    shutil.copytree(run / "adapters", tmp_path / "run" / "adapters")
    (tmp_path / "run" / "adapters" / "adapters.safetensors").unlink()
    with pytest.raises(UserError, match="missing or broken"):
        export_run(tmp_path / "run", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_another_base_model_is_refused(exported: Any, tmp_path: Path) -> None:
    run, _ = exported("llama")
    shutil.copytree(run, tmp_path / "run")
    about = tmp_path / "run" / "adapters" / "adapters.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), "base_hash": "0123456789abcdef"}))
    with pytest.raises(UserError, match="another base model"):
        export_run(tmp_path / "run", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_pretrained_weights_are_hashed_and_a_changed_base_fails(prepared: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    AutoModel.from_config(AutoConfig.for_model("qwen3", **ARCHITECTURES["qwen3"])).save_pretrained(base)
    write_run(tmp_path / "run", prepared, {"path": str(base)}, [])
    export_run(tmp_path / "run", tmp_path / "out", golden=3)
    serving = json.loads((tmp_path / "out" / "serving.json").read_text())
    assert serving["base"]["path"] == str(base)
    assert list(serving["base"]["weights_sha256"]) == ["model.safetensors"]
    assert not (tmp_path / "out" / "base").exists()
    weights = load_file(base / "model.safetensors")
    save_file({name: tensor * 1.01 for name, tensor in weights.items()}, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="is not the base model"):
        run_check(tmp_path / "out")


def test_a_base_may_be_elsewhere(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "here"
    AutoModel.from_config(AutoConfig.for_model("qwen3", **ARCHITECTURES["qwen3"])).save_pretrained(place / "base")
    write_run(place / "run", prepared, {"path": str(place / "base")}, [])
    export_run(place / "run", place / "exports" / "shop", golden=2)
    moved = tmp_path / "there"
    place.rename(moved)
    request = {"candidates": [{"text": "tea"}]}
    recommender = Recommender.load(moved / "exports" / "shop")  # both have moved, as far from each other
    expected = recommender.score_prepared([recommender.prepare(request)])[0].candidates
    assert run_check(moved / "exports" / "shop")
    (moved / "base").rename(tmp_path / "base")
    with pytest.raises(UserError, match="name its place with --base"):
        Recommender.load(moved / "exports" / "shop")
    recommender = Recommender.load(moved / "exports" / "shop", base=str(tmp_path / "base"))
    assert recommender.score_prepared([recommender.prepare(request)])[0].candidates == expected
    check = [sys.executable, str(moved / "exports" / "shop" / "check_golden.py"), "--base", str(tmp_path / "base")]
    assert "golden check passed" in subprocess.run(check, capture_output=True, text=True, check=True).stdout
    assert not list((moved / "exports").rglob("__pycache__"))
    weights = tmp_path / "base" / "model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    with pytest.raises(UserError, match="is not the base model"):
        Recommender.load(moved / "exports" / "shop", base=str(tmp_path / "base"))
    (tmp_path / "request.json").write_text(json.dumps(request))
    explain = ["explain", str(moved / "exports" / "shop"), str(tmp_path / "request.json")]
    with pytest.raises(SystemExit) as stop:
        main([*explain, "--base", str(tmp_path / "no")])
    assert stop.value.code == 2 and "--base" in capsys.readouterr().err


def test_a_pretrained_encoder_in_a_package_is_exported(prepared: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "run", prepared, {"path": TOKENIZER, "split": 4}, ["coverage"])
    export_run(tmp_path / "run", tmp_path / "out", golden=3)
    adapter = json.loads((tmp_path / "out" / "cvr" / "adapter_config.json").read_text())
    assert Path(adapter["base_model_name_or_path"]).is_dir()
    assert load_file(tmp_path / "out" / "cvr" / "head.safetensors")["score.weight"].shape == (1, 384)
