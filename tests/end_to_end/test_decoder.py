"""Exports of a run on a GGUF file: the base is in the export, and proves itself without this project."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from equipoise.common.errors import UserError
from equipoise.common.hashing import file_hash
from equipoise.configs.load import read_run_config
from equipoise.export.formats import Formats
from equipoise.export.load import load_export
from equipoise.export.write import export_run
from equipoise.modeling.base_files import resolve_path
from equipoise.modeling.run_model import load_run_model
from tests.decoder import SMOLLM2, needs_smollm2
from tests.export_run import write_prepared, write_run
from tests.gguf_file import write_gguf

SMALL = {"path": SMOLLM2, "tokenizer": None, "layers": 3, "split": 2}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "prepared"
    write_prepared(folder)
    return folder


def base_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "serving.json").read_text())["base"]


@pytest.mark.slow
@needs_smollm2
@pytest.mark.parametrize(("scope", "merged"), [("all", True), ("candidates", False)])
def test_the_real_decoder_passes_its_golden_check(scope: str, merged: bool, prepared: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "run", prepared, SMALL, ["diversity"], scope)
    out = tmp_path / "out"
    export_run(tmp_path / "run", out, golden=4, formats=Formats(merged=merged))  # this runs the check
    base, adapter = base_of(out), json.loads((out / "ctr" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == str(out / "base")
    assert (base["inside_export"], base["layers"], base["configured"]) == (True, 3, SMOLLM2)
    assert base["gguf_sha256"] == Path(resolve_path(SMOLLM2)).name
    assert base["weights_sha256"] == {"model.safetensors": file_hash(out / "base" / "model.safetensors")}
    assert (out / ("merged" if merged else "alora") / "ctr").is_dir()
    stock = AutoModelForSequenceClassification.from_pretrained(adapter["base_model_name_or_path"], num_labels=1)
    assert (len(stock.model.layers), stock.config.hidden_size) == (3, 576)
    loaded = dict(load_export(out).named_parameters())
    trained = dict(load_run_model(read_run_config(tmp_path / "run"), tmp_path / "run" / "adapters").named_parameters())
    assert loaded.keys() == trained.keys()
    body = [name for name in trained if not name.startswith("heads.")]  # outputs that only serve training are left out
    assert all(torch.equal(trained[name], loaded[name]) for name in body)
    card = (out / "README.md").read_text()
    assert f"the first 3 layers of `{SMOLLM2}`, dequantised (sha256 of the GGUF file: `{base['gguf_sha256']}`)" in card


@pytest.fixture(scope="module")
def tiny(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run on a tiny GGUF file, and its export; the file and what was made of it are gone."""
    folder = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EQUIPOISE_CACHE", str(folder / "cache"))
        file = write_gguf(folder / "tiny.gguf")
        write_run(folder / "run", prepared, {"path": str(file), "tokenizer": None}, ["diversity"])
        # The check in a fresh process has its test above.
        names = ("ctr", "cvr", "diversity")
        patch.setattr("equipoise.export.write.run_check", lambda out: dict.fromkeys(names, 0.0))
        export_run(folder / "run", folder / "out", golden=3)
        shutil.copy(file, folder / "kept")
        file.unlink()
    shutil.rmtree(folder / "cache")
    return folder / "run", folder / "out"


def test_an_export_needs_neither_the_file_nor_the_cache(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    run, out = tiny
    shutil.copytree(out, tmp_path / "elsewhere")
    assert load_export(tmp_path / "elsewhere").backbone.config.gguf_sha256 == base_of(out)["gguf_sha256"]
    about = json.loads((run / "adapters" / "adapters.json").read_text())
    assert base_of(out)["layers"] is None
    assert about["base_hash"] == base_of(out)["config_hash"]


def test_a_changed_base_in_the_export_is_noticed(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    out = Path(shutil.copytree(tiny[1], tmp_path / "out"))
    weights = load_file(out / "base" / "model.safetensors")
    weights["layers.0.mlp.up_proj.weight"][0, 0] += 1e-3
    save_file(weights, out / "base" / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"is not the base model that .* was trained on"):
        load_export(out)


def test_adapters_of_another_file_are_refused(
    tiny: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EQUIPOISE_CACHE", str(tmp_path / "cache"))
    config = read_run_config(tiny[0])
    path = config.backbone.path
    config.backbone.path = str(write_gguf(tmp_path / "other.gguf", seed=1))
    with pytest.raises(UserError, match="was trained on another base model than backbone"):
        load_run_model(config, tiny[0] / "adapters")
    config.backbone.path = str(tmp_path / "moved.gguf")
    shutil.copy(Path(path).with_name("kept"), tmp_path / "moved.gguf")
    load_run_model(config, tiny[0] / "adapters")
