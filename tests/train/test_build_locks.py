"""Locks of dead builds are removed, those of living builds are waited for."""

import os
import threading
import time
from pathlib import Path

import pytest
from torch.utils.file_baton import FileBaton

from equipoise.train.build_locks import build_root, release_stale_build_locks


def aged(lock: Path, seconds: float) -> Path:
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.touch()
    os.utime(lock, (time.time() - seconds,) * 2)
    return lock


def test_lock_of_a_killed_job_is_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    deep = aged(tmp_path / "py311_cpu" / "deepspeed_shm_comm" / "lock", 500)
    flat = aged(tmp_path / "cpu_adam" / "lock", 500)
    assert release_stale_build_locks(tmp_path) == [flat, deep]
    assert not deep.exists() and not flat.exists()
    assert f"removed {deep}" in caplog.text


def test_young_lock_is_given_its_time(tmp_path: Path) -> None:
    lock = aged(tmp_path / "op" / "lock", 0)
    started = time.monotonic()
    assert release_stale_build_locks(tmp_path, stale_after=0.6, poll=0.05) == [lock]
    assert time.monotonic() - started >= 0.4


def test_running_build_is_waited_for(tmp_path: Path) -> None:
    # Held by torch's own lock class, however old it is.
    (tmp_path / "op").mkdir()
    baton = FileBaton(str(tmp_path / "op" / "lock"))
    assert baton.try_acquire()
    aged(tmp_path / "op" / "lock", 1000)
    release = threading.Timer(0.5, baton.release)
    started = time.monotonic()
    release.start()
    assert release_stale_build_locks(tmp_path, poll=0.05) == []
    assert time.monotonic() - started >= 0.4
    release.join()


def test_lock_just_let_go_is_its_builders_to_remove(tmp_path: Path) -> None:
    # `FileBaton.release` closes the file and only then removes it: a look between the two finds it held by nobody.
    lock = aged(tmp_path / "op" / "lock", 1000)
    threading.Timer(0.3, lock.unlink).start()
    assert release_stale_build_locks(tmp_path, poll=1.0) == []


def test_root_is_where_torch_builds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    assert build_root() == tmp_path
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR")
    assert build_root().name == "torch_extensions"
