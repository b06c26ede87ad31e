"""`equipoise push` against a stand-in for the Hub on this machine, and an export that plain PEFT loads from there."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import HfApi, constants

from equipoise.common.errors import UserError
from equipoise.launch import push
from equipoise.launch.cli import main
from equipoise.launch.push import push_export
from tests.hub_server import TOKEN, HubServer, hub_server

LOAD = """
import json, sys, torch
for name in ("equipoise", "tests"):
    sys.modules[name] = None
from huggingface_hub import hf_hub_download
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

repo = sys.argv[1]
serving = json.loads(open(hf_hub_download(repo, "serving.json")).read())
golden = [json.loads(line) for line in open(hf_hub_download(repo, "golden.jsonl"))]
base = AutoModelForSequenceClassification.from_pretrained(repo, subfolder="base", num_labels=1, dtype=torch.float32)
base.config.pad_token_id = serving["pad_token_id"]
model = PeftModel.from_pretrained(base, repo, subfolder="ctr").eval()
with torch.inference_mode():
    for prompt in golden:
        logit = model(input_ids=torch.tensor([prompt["input_ids"]])).logits[0, 0].item()
        print(logit, prompt["logit"]["ctr"])
"""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A stand-in, which this process's huggingface_hub takes for the Hub."""
    with hub_server() as server:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(push, "HfApi", lambda token: HfApi(endpoint=server.url, token=token))
        monkeypatch.setenv("SHOP_TOKEN", TOKEN)
        yield server


@pytest.fixture(scope="module")
def exported(tiny_export: Callable[..., Any]) -> Path:
    return tiny_export("llama", "all").folder


@pytest.fixture
def export(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "export"))


def pushed_files(export: Path) -> set[str]:
    return {path.relative_to(export).as_posix() for path in export.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_pushed_export_is_loaded_by_plain_peft(
    hub: HubServer, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["push", str(exported), "me/shop", "--private", "--token-env", "SHOP_TOKEN"])
    printed = "".join(capsys.readouterr())
    assert stop.value.code == 0 and hub.private == {"me/shop": True}
    assert f"{hub.url}/me/shop/commit/" in printed and 'subfolder="ctr"' in printed and TOKEN not in printed
    files = hub.repos["me/shop"]["main"]
    assert set(files) == {*pushed_files(exported), ".gitattributes"}
    assert all(files[name] == (exported / name).read_bytes() for name in pushed_files(exported))
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_") and key != "PYTHONPATH"}
    place = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN}
    command = [sys.executable, "-c", LOAD, "me/shop"]
    loaded = subprocess.run(command, env={**kept, **place}, cwd=tmp_path, capture_output=True, text=True)
    assert loaded.returncode == 0, loaded.stderr
    pairs = [tuple(map(float, line.split())) for line in loaded.stdout.splitlines()]
    assert len(pairs) == 8
    for logit, golden in pairs:
        assert logit == pytest.approx(golden, abs=1e-4)


def test_the_card_begins_with_what_the_hub_reads(export: Path) -> None:
    head = re.match(r"---\n(.*?)\n---\n", (export / "README.md").read_text(), re.DOTALL)
    assert head is not None
    data = yaml.safe_load(head[1])
    assert (data["library_name"], data["pipeline_tag"]) == ("peft", "text-ranking")
    assert "lora" in data["tags"] and "base_model" not in data  # its base is of random weights


def test_a_later_export_takes_the_place_of_the_earlier_one(hub: HubServer, export: Path) -> None:
    (export / "notes.txt").write_text("mine")
    address = push_export(export, "me/shop", token_env="SHOP_TOKEN")
    assert address.startswith(f"{hub.url}/me/shop/commit/") and not hub.private["me/shop"]
    files = hub.repos["me/shop"]["main"]
    assert "notes.txt" not in files and "base/model.safetensors" in files
    files |= {"LICENSE": b"mine", "ctr/own.txt": b"mine", "base/old.safetensors": b"", "old/adapter.bin": b"x"}
    before = json.loads(files["serving.json"])
    files["serving.json"] = json.dumps({**before, "files": {**before["files"], "old/adapter.bin": "0"}}).encode()
    push_export(export, "me/shop", revision="next", token_env="SHOP_TOKEN")
    (first, second) = hub.commits
    assert first["deleted"] == [] and second["branch"] == "next" and "old/adapter.bin" in files
    assert second["deleted"] == ["base/old.safetensors", "old/adapter.bin"]
    kept = hub.repos["me/shop"]["next"]
    assert {"LICENSE", "ctr/own.txt"} <= set(kept) and json.loads(kept["serving.json"]) == before
    assert second["parent"] is not None


@pytest.mark.parametrize("name", ["ctr/adapter_model.safetensors", "golden.jsonl", "base/model.safetensors"])
def test_a_damaged_export_is_not_pushed(hub: HubServer, export: Path, name: str) -> None:
    content = (export / name).read_bytes()
    (export / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match=rf"{name} is not the .* exported: restore it"):
        push_export(export, "me/shop", token_env="SHOP_TOKEN")
    (export / name).unlink()
    with pytest.raises(UserError, match="export the run again"):
        push_export(export, "me/shop", token_env="SHOP_TOKEN")
    assert hub.repos == {}


def test_an_export_without_hashes_or_card_is_not_pushed(hub: HubServer, export: Path) -> None:
    (export / "README.md").unlink()
    with pytest.raises(UserError, match=r"README\.md is missing"):
        push_export(export, "me/shop", token_env="SHOP_TOKEN")
    record = json.loads((export / "serving.json").read_text())
    rest = {key: value for key, value in record.items() if key not in ("files", "sha256")}
    (export / "serving.json").write_text(json.dumps(rest))
    with pytest.raises(UserError, match="written without hashes"):
        push_export(export, "me/shop", token_env="SHOP_TOKEN")
    assert hub.repos == {}


def test_what_cannot_be_pushed_is_one_sentence(
    hub: HubServer, export: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*more: str, repo: str = "me/shop", token: str = "SHOP_TOKEN") -> str:
        with pytest.raises(SystemExit) as stop:
            main(["push", str(export), repo, "--token-env", token, *more])
        assert stop.value.code == 2
        said = capsys.readouterr().err
        assert len(said.strip().splitlines()) == 1 and TOKEN not in said
        return said

    assert "is no name of a repository" in refused(repo="me/shop/again")
    assert "--token-env NONE holds no token" in refused(token="NONE")
    monkeypatch.setenv("BAD", "hf_other")
    assert "the token is not accepted" in refused(token="BAD")
    assert hub.repos == {}
    hub.repos["me/other"], hub.private["me/other"] = {"main": {"model.bin": b""}}, False
    assert "holds something else than an export (model.bin)" in refused(repo="me/other")
    assert "can be read by others" in refused("--private", repo="me/other")
    hub.refuse["/api/models/me/shop/commit/main"] = 403
    assert "the token may not write there" in refused()
    hub.refuse["/api/models/me/shop/commit/main"] = 412
    assert "was not pushed" in refused()
    assert hub.commits == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refused()
    monkeypatch.setattr(push, "get_token", lambda: None)
    with pytest.raises(UserError, match="no token of the Hugging Face Hub"):
        push_export(export, "me/shop")
    with pytest.raises(UserError, match="is not an export"):
        push_export(export.parent, "me/shop")
