"""Trained adapters are not lost where the run folder cannot be written, and it is said in one sentence."""

import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from equipoise.common.errors import UserError
from equipoise.common.process import LAUNCHER
from equipoise.modeling.adapter_store import AdapterInfo
from equipoise.train import rescue
from equipoise.train.best_adapters import unfinished
from equipoise.train.loop import StopSignal
from equipoise.train.rescue import said_if_full, said_if_not_written, save_or_rescue

INFO = AdapterInfo("base", "0", 2, {"ctr": 1}, [], {"ctr": -2.5}, {}, {})
FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FULL, "No space left on device"),
        (OSError(errno.EROFS, "Read-only file system"), "Read-only file system"),
        (SafetensorError("Error while serializing: I/O error: No space left on device"), "No space left"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 1 vs 2"), "the disk is full"),
    ],
)
def test_what_cannot_be_written_is_one_sentence(error: Exception, words: str) -> None:
    with (
        pytest.raises(UserError, match=f"step-1 cannot be written .*{words}.*: free space"),
        said_if_not_written("step-1", "free space"),
    ):
        raise error


def test_a_disk_that_fills_anywhere_in_training_is_one_sentence(tmp_path: Path) -> None:
    file = OSError(errno.ENOSPC, "No space left on device", "run/metrics.jsonl")
    with (
        pytest.raises(UserError, match=r"run/metrics\.jsonl cannot be written \(No space left"),
        said_if_full(tmp_path),
    ):
        raise file
    with pytest.raises(UserError, match=r"cannot be written .*No space left"), said_if_full(tmp_path):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    for error in (
        FileNotFoundError(errno.ENOENT, "No such file"),
        SafetensorError("header too large"),
        RuntimeError("x"),
    ):
        with pytest.raises(type(error)), said_if_full(tmp_path):
            raise error


def test_another_error_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="shapes differ"), said_if_not_written("step-1", "free space"):
        raise RuntimeError("shapes differ")


def test_adapters_are_written_elsewhere_where_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rescue.save_adapters

    def full(folder: Path, *rest: Any) -> None:
        if folder == tmp_path / "run" / "adapters":
            raise FULL
        whole(folder, *rest)

    monkeypatch.setattr(rescue, "save_adapters", full)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    tensors = {"a": torch.arange(3.0)}
    with pytest.raises(UserError, match=r"No space left.*what was trained is safe in .*equipoise-adapters-"):
        save_or_rescue(tmp_path / "run" / "adapters", tensors, INFO)
    kept = next(tmp_path.glob("equipoise-adapters-*"))
    assert torch.equal(load_file(kept / "adapters.safetensors")["a"], tensors["a"])


@pytest.mark.parametrize(
    ("summary", "checkpoints", "words"),
    [
        (None, [], None),
        (None, [4], "a checkpoint of step 4 and no end"),
        ('{"finished": true, "steps": 6}', [], None),
        ('{"finished": true, "steps": 6}', [4, 6], None),
        ('{"finished": true, "steps": 6}', [6, 8], "adapters are of step 6, its last checkpoint of step 8"),
        ('{"finished": false, "steps": 7}', [7], "was stopped after step 7"),
        ("{", [], "cannot be read"),
    ],
)
def test_an_unfinished_run_is_told(
    tmp_path: Path, summary: str | None, checkpoints: list[int], words: str | None
) -> None:
    for step in checkpoints:
        (tmp_path / "checkpoints" / f"step-{step:06d}").mkdir(parents=True)
        (tmp_path / "checkpoints" / f"step-{step + 1:06d}.tmp").mkdir()
    if summary is not None:
        (tmp_path / "summary.json").write_text(summary)
    found = unfinished(tmp_path)
    assert found is None if words is None else found is not None and words in found


@pytest.mark.parametrize("variables", [{LAUNCHER: "parent"}, {"TORCHELASTIC_RUN_ID": "none"}])
def test_a_process_whose_launcher_has_died_stops(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, str(os.getppid()) if value == "parent" else value)
    stop = StopSignal()
    try:
        assert not stop.asked
        monkeypatch.setattr("os.getppid", lambda: 1)
        assert stop.orphaned and stop.asked
    finally:
        stop.restore()


def test_a_training_of_a_shell_that_has_gone_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv(LAUNCHER, "1")  # of another launcher further up
    stop = StopSignal()
    try:
        monkeypatch.setattr("os.getppid", lambda: 1)
        assert not stop.asked
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked and not stop.orphaned
    finally:
        stop.restore()
