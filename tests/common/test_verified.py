"""Files are read once, and again whenever they are not the same by size, times and inode."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from equipoise.common import verified
from equipoise.common.errors import UserError
from equipoise.common.hashing import file_hash
from equipoise.common.sealed import SEAL, refuse_changed, seal
from equipoise.common.verified import MEMORY, first_changed


@pytest.fixture
def hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Two files, old enough to be remembered."""
    monkeypatch.setattr(verified, "SETTLED_NS", -1)
    (tmp_path / "deep").mkdir()
    for name in ("a", "deep/b"):
        (tmp_path / name).write_text(f"content of {name}")
    return {name: file_hash(tmp_path / name) for name in ("a", "deep/b")}


def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are read from now on."""
    seen: list[str] = []

    def noted(path: Path) -> str:
        seen.append(path.name)
        return file_hash(path)

    monkeypatch.setattr(verified, "file_hash", noted)
    return seen


def test_files_are_read_once(tmp_path: Path, hashes: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = reads(monkeypatch)
    assert first_changed(tmp_path, hashes) is None and seen == ["a", "b"]
    assert first_changed(tmp_path, hashes) is None and seen == ["a", "b"]
    copy = Path(shutil.copytree(tmp_path, tmp_path.with_name("copy")))
    assert first_changed(copy, hashes) is None and seen == ["a", "b", "a", "b"]


def test_a_change_is_noticed_whatever_the_times_say(tmp_path: Path, hashes: dict[str, str]) -> None:
    assert first_changed(tmp_path, hashes) is None
    path, before = tmp_path / "deep/b", (tmp_path / "deep/b").stat()
    path.write_text("content of deep/c")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert first_changed(tmp_path, hashes) == "deep/b"
    path.unlink()
    assert first_changed(tmp_path, hashes) == "deep/b"


def test_exchanged_files_are_noticed(tmp_path: Path, hashes: dict[str, str]) -> None:
    assert first_changed(tmp_path, hashes) is None
    (tmp_path / "a").rename(tmp_path / "c")
    (tmp_path / "deep/b").rename(tmp_path / "a")
    (tmp_path / "c").rename(tmp_path / "deep/b")
    assert first_changed(tmp_path, hashes) == "a"


@pytest.mark.parametrize("memory", ["", "[]", "{", '{"a": 3}'])
def test_a_broken_memory_is_no_memory(
    tmp_path: Path, hashes: dict[str, str], monkeypatch: pytest.MonkeyPatch, memory: str
) -> None:
    (tmp_path / MEMORY).write_text(memory)
    seen = reads(monkeypatch)
    assert first_changed(tmp_path, hashes) is None and seen == ["a", "b"]


def test_new_files_are_read_again(tmp_path: Path, hashes: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verified, "SETTLED_NS", 10**15)
    seen = reads(monkeypatch)
    assert [first_changed(tmp_path, hashes), first_changed(tmp_path, hashes)] == [None, None]
    assert seen == ["a", "b", "a", "b"]


def test_sealed_folders_refuse_what_was_changed(tmp_path: Path, hashes: dict[str, str]) -> None:
    refuse_changed(tmp_path, "restore it")  # one that is not sealed says nothing
    seal(tmp_path)
    refuse_changed(tmp_path, "restore it")
    (tmp_path / "later").write_text("more")
    seal(tmp_path, ["later"])
    record: dict[str, Any] = json.loads((tmp_path / SEAL).read_text())
    assert set(record["files"]) == {"a", "deep/b", "later"}
    for name in ("a", "deep/b", "later"):
        content = (tmp_path / name).read_text()
        (tmp_path / name).write_text(content[:-1])
        with pytest.raises(UserError, match=f"{name} is not as it was written: restore it"):
            refuse_changed(tmp_path, "restore it")
        (tmp_path / name).write_text(content)
    for broken in ("", "[]", json.dumps(record | {"files": {}})):
        (tmp_path / SEAL).write_text(broken)
        with pytest.raises(UserError, match=rf"{SEAL} is not as it was written: restore it"):
            refuse_changed(tmp_path, "restore it")
