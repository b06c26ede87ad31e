"""Checkpoints are believed by their hashes; a damaged one is passed over, and the last good one is kept."""

import errno
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from equipoise.common.errors import UserError
from equipoise.train.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from equipoise.train.checkpoint_files import STATE, checkpoints, last_good, last_whole, read_state
from equipoise.train.world import World

Save = Callable[..., Path]
FILES = ("trainable.safetensors", "optimizer.pt", "random-0.pt", STATE)


def parts() -> tuple[Accelerator, nn.Module, torch.optim.Optimizer]:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return Accelerator(cpu=True), model, optimizer


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Writes a checkpoint of a step into one run."""
    accelerator, model, optimizer = parts()

    def write(step: int, keep: int = 9, good: bool = True, **extra: Any) -> Path:
        progress = TrainingState(step, step, extra, good)
        return save_checkpoint(tmp_path, accelerator, model, optimizer, progress, World(), keep)

    return write


def zeroed(content: bytes) -> bytes:
    return bytes(len(content))


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [zeroed, flipped, cut])
def test_a_damaged_file_is_seen_and_the_checkpoint_before_is_used(
    name: str, damage: Callable[[bytes], bytes], save: Save, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before, last = save(2, loss=0.25), save(4, loss=0.125)
    assert last_whole(tmp_path) == last
    file = last / name
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=r"damaged: remove .* to resume from the checkpoint before it"):
        load_checkpoint(last, *parts(), World())
    with caplog.at_level(logging.WARNING):
        assert last_whole(tmp_path) == before
    assert "passed over: " in caplog.text and name in caplog.text
    assert load_checkpoint(before, *parts(), World()).extra == {"loss": 0.25}
    file.unlink()
    assert last_whole(tmp_path) == before
    (before / name).unlink()
    with pytest.raises(UserError, match=r"has no checkpoint that is whole .*start anew with --overwrite"):
        last_whole(tmp_path)


def test_exchanged_files_and_changed_numbers_are_seen(save: Save) -> None:
    one, other = save(2), save(4, loss=0.5)
    exchanged = (other / "random-0.pt").read_bytes()
    (other / "random-0.pt").write_bytes((one / "optimizer.pt").read_bytes())
    with pytest.raises(UserError, match=r"random-0\.pt is not as it was written"):
        read_state(other)
    (other / "random-0.pt").write_bytes(exchanged)
    read_state(other)
    state = json.loads((other / STATE).read_text())
    (other / STATE).write_text(json.dumps({**state, "extra": {"loss": 0.75}}))
    with pytest.raises(UserError, match=r"state\.json is missing or broken"):
        read_state(other)


def test_a_file_that_the_record_does_not_know_is_never_unpickled(save: Save) -> None:
    folder = save(2)
    (folder / "engine").mkdir()
    (folder / "engine" / "mp_rank_00_model_states.pt").write_bytes(b"a pickle")
    with pytest.raises(UserError, match=r"model_states\.pt is no file that this checkpoint was written with"):
        load_checkpoint(folder, *parts(), World())


def test_a_checkpoint_of_before_is_read_by_its_sizes_with_a_note(save: Save, caplog: pytest.LogCaptureFixture) -> None:
    folder = save(2)
    state = json.loads((folder / STATE).read_text())
    sizes = {name: (folder / name).stat().st_size for name in state["files"]}
    old = {key: value for key, value in state.items() if key not in ("sha256", "good")} | {"files": sizes}
    (folder / STATE).write_text(json.dumps(old))
    with caplog.at_level(logging.INFO):
        assert load_checkpoint(folder, *parts(), World()).step == 2
    assert "written without hashes" in caplog.text
    (folder / "optimizer.pt").write_bytes(b"")
    with pytest.raises(UserError, match="missing or cut short"):
        read_state(folder)


def test_the_last_good_checkpoint_is_never_rotated_away(save: Save, tmp_path: Path) -> None:
    for step, good in ((2, True), (4, True), (6, False), (8, False), (10, False)):
        save(step, keep=2, good=good)
    assert [folder.name for folder in checkpoints(tmp_path)] == ["step-000004", "step-000008", "step-000010"]
    assert last_good(tmp_path, 10) == tmp_path / "checkpoints" / "step-000004"
    save(12, keep=2)
    assert [folder.name for folder in checkpoints(tmp_path)] == ["step-000010", "step-000012"]


def test_checkpoints_of_another_course_go(save: Save, tmp_path: Path) -> None:
    for step in (2, 4, 6):
        save(step)
    save(3)
    assert [folder.name for folder in checkpoints(tmp_path)] == ["step-000002", "step-000003"]


def test_checkpoints_are_ordered_by_their_step(tmp_path: Path) -> None:
    for name in ("step-1000000", "step-999999", "step-000010.tmp", "step-old5", "step-000010.tmp-12-ab12"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert [folder.name for folder in checkpoints(tmp_path)] == ["step-999999", "step-1000000"]


def test_a_full_disk_leaves_the_checkpoints_before(save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(2)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("equipoise.train.checkpoint.torch.save", full)
    with pytest.raises(UserError, match=r"step-000004 cannot be written \(No space left on device\).*--resume"):
        save(4)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000002"]
    assert last_whole(tmp_path).name == "step-000002"
