"""Trained tensors on disk: what comes back, and what is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from equipoise.common.errors import UserError
from equipoise.modeling.adapter_store import (
    ABOUT,
    TENSORS,
    AdapterInfo,
    copy_into,
    load_adapters,
    read_info,
    save_adapters,
)
from equipoise.modeling.model import SlateModel

INFO = AdapterInfo(
    "some/base", "abc123", 2, {"ctr": 1, "cvr": 2}, ["diversity"], {"ctr": -2.5}, {"item": ["{title}"]}, {}
)


def trained(model: SlateModel) -> dict[str, torch.Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def test_what_is_saved_comes_back_bit_for_bit(make_model: Callable[..., SlateModel], tmp_path: Path) -> None:
    source, target = make_model("llama", seed=3), make_model("llama", seed=3, random_adapters=False)
    save_adapters(tmp_path / "adapters", trained(source), INFO)
    assert sorted(path.name for path in (tmp_path / "adapters").iterdir()) == [ABOUT, TENSORS]
    frozen = {name: p.clone() for name, p in target.named_parameters() if not p.requires_grad}
    assert load_adapters(target, tmp_path / "adapters", "abc123") == INFO
    for name, parameter in trained(source).items():
        assert torch.equal(trained(target)[name], parameter)
    assert all(torch.equal(dict(target.named_parameters())[name], p) for name, p in frozen.items())
    assert list(read_info(tmp_path / "adapters").pointwise) == ["ctr", "cvr"]  # the order of the towers


def test_an_ungathered_tensor_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the first is b: they were not gathered"):
        save_adapters(tmp_path, {"a": torch.ones(2), "b": torch.empty(0)}, INFO)
    assert not list(tmp_path.iterdir())


def test_another_base_is_refused(make_model: Callable[..., SlateModel], tmp_path: Path) -> None:
    model = make_model("llama")
    save_adapters(tmp_path, trained(model), INFO)
    with pytest.raises(UserError, match=r"another base model .*abc123.*point backbone\.path to some/base"):
        load_adapters(model, tmp_path, "fff000")


def test_other_settings_are_refused_before_anything_is_copied(make_model: Callable[..., SlateModel]) -> None:
    model = make_model("llama")
    tensors = {name: torch.zeros_like(p) for name, p in trained(model).items()}
    name = next(iter(tensors))
    missing = {key: value for key, value in tensors.items() if key != name}
    for wrong in (missing, {**tensors, "more": torch.ones(1)}, {**tensors, name: torch.zeros(3, 3)}):
        with pytest.raises(
            UserError, match=r"does not fit this config .*use the lora, objectives and backbone settings"
        ):
            copy_into(model, wrong, "file")
    assert all(p.abs().max() > 0 for p in trained(model).values())
    copy_into(model, tensors, "file")
    assert all(p.abs().max() == 0 for p in trained(model).values())


def test_missing_and_broken_files_are_named(make_model: Callable[..., SlateModel], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no trained adapters: finish `equipoise train` first"):
        read_info(tmp_path)
    for broken in ("{", json.dumps({"split": 2}), json.dumps([1]), json.dumps({"unknown": 1})):
        (tmp_path / ABOUT).write_text(broken)
        with pytest.raises(UserError, match=rf"{ABOUT} cannot be read"):
            read_info(tmp_path)
    model = make_model("llama")
    save_adapters(tmp_path, trained(model), replace(INFO, base_hash="x"))
    (tmp_path / TENSORS).write_bytes((tmp_path / TENSORS).read_bytes()[:1000])
    with pytest.raises(UserError, match=rf"{TENSORS} is missing or broken"):
        load_adapters(model, tmp_path, "x")
    (tmp_path / TENSORS).unlink()
    with pytest.raises(UserError, match=rf"{TENSORS} is missing or broken"):
        load_adapters(model, tmp_path, "x")
