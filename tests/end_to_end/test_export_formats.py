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
from transformers import AutoModelForSequenceClassification
from typer.testing import CliRunner

from equipoise.common.errors import UserError
from equipoise.export.check_process import run_check
from equipoise.export.formats import Formats
from equipoise.export.load import load_export
from equipoise.export.write import export_run
from equipoise.launch.cli import app
from tests.card_code import run_python
from tests.export_record import write_record
from tests.export_run import LISTWISE, write_tiny_run
from tests.sglang_layout import DELIMITER, multi_item_scores, multi_item_sequence

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
RANKS = {"gpt2": {"shared": 2, "c_proj": 3}, "llama-candidates": {"ctr": 6, "down_proj": 2}}
"""Exports with adapters of several ranks."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> Exported:
    """ARCHITECTURE or ARCHITECTURE-candidates → (run, export with its KINDS), each made and checked once."""
    made: dict[str, tuple[Path, Path]] = {}

    def make(name: str) -> tuple[Path, Path]:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            arch, _, scope = name.partition("-")
            run = write_tiny_run(
                folder, prepared, arch, scope or "all", "mean" if arch == "bert" else "last", ranks=RANKS.get(name)
            )
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


def test_sglang_would_give_the_scores_of_a_slate(exported: Exported) -> None:
    _, out = exported("llama")
    golden = [json.loads(line) for line in (out / "golden.jsonl").read_text("utf-8").splitlines()]
    parts = [
        (each["input_ids"][: each["prefix_tokens"]], each["input_ids"][each["prefix_tokens"] :]) for each in golden
    ]
    query, items = parts[0][0], [item for _, item in parts]
    assert len({len(item) for item in items}) > 1
    classifier = AutoModelForSequenceClassification.from_pretrained(out / "merged" / "ctr").eval()
    # The trained model's own score of the first candidate, and the stock class on separate prompts for all.
    alone = torch.stack([classifier(torch.tensor([query + item])).logits[0, 0] for item in items]).detach()
    assert alone[0].item() == pytest.approx(golden[0]["logit"]["ctr"], abs=1e-4)
    for delimiter in (DELIMITER, 5):  # whatever token it is: nothing of a candidate sees it
        assert torch.allclose(multi_item_scores(classifier, query, items, delimiter), alone, atol=1e-4)
    assert torch.allclose(multi_item_scores(classifier, query, items[::-1]), alone.flip(0), atol=1e-4)
    record = serving(out)
    assert record["sglang"]["ctr"]["why_not"].startswith("SGLang reads llama classifiers at the end of a prompt")
    assert "not for SGLang" in (out / "README.md").read_text()


def test_the_layout_is_that_of_flashinfers_own_example() -> None:
    sequence = multi_item_sequence(range(7), [[100], [101], [102]], DELIMITER)
    assert sequence.delimiters == [7, 9, 11, 13]
    assert sequence.positions[0].tolist() == [*range(7), 6, 7, 6, 7, 6, 7, 6]
    seen = [row.nonzero().flatten().tolist() for row in sequence.allowed]
    assert seen[6] == [*range(7)] and seen[9] == [*range(7)]
    assert [seen[n] for n in (8, 10, 12)] == [[*range(7), n] for n in (8, 10, 12)]


@pytest.mark.parametrize("name", [*RANKS])
def test_several_ranks_are_told_to_peft_and_read_again(exported: Exported, name: str) -> None:
    run, out = exported(name)  # the export ran its own check, by plain PEFT
    config = json.loads((out / "ctr" / "adapter_config.json").read_text())
    tensors = load_file(out / "ctr" / "adapter_model.safetensors")
    shapes = {key: len(x) for key, x in tensors.items() if "lora_A" in key}
    told = {f"base_model.model.{module}.lora_A.weight": rank for module, rank in config["rank_pattern"].items()}
    assert told == {key: rank for key, rank in shapes.items() if rank != config["r"]} and len(set(shapes.values())) == 3
    assert {config["alpha_pattern"][m] / rank for m, rank in config["rank_pattern"].items()} == {2.0}
    assert serving(out)["adapter_shape"]["ranks"] == RANKS[name]
    loaded = dict(load_export(out).named_parameters())
    trained = load_file(run / "adapters" / "adapters.safetensors")
    assert all(torch.equal(x, loaded[key]) for key, x in trained.items() if ".lora_" in key)


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
