"""Files and folders appear completely or not at all."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from equipoise.common.atomic import HOST, atomic_dir, atomic_write, refuse_unwritable, replace_dir
from equipoise.common.errors import UserError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_at_the_end_or_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and names(tmp_path) == ["a.txt"]
    with atomic_write(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and names(tmp_path) == ["a.txt"]


def test_a_folder_is_replaced_at_the_end_or_left_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "folder"
    for number in (1, 2):
        with atomic_dir(folder) as building:
            (building / f"{number}").touch()
    assert names(folder) == ["2"] and names(folder.parent) == ["folder"]
    with pytest.raises(RuntimeError), atomic_dir(folder) as building:
        (building / "3").touch()
        raise RuntimeError
    assert names(folder) == ["2"] and names(folder.parent) == ["folder"]


@pytest.mark.parametrize("keep", [True, False])
def test_what_another_process_finished_meanwhile_may_stay(tmp_path: Path, keep: bool) -> None:
    folder = tmp_path / "folder"
    with atomic_dir(folder, keep=lambda there: keep and (there / "other").is_file()) as building:
        (building / "own").touch()
        folder.mkdir()
        (folder / "other").touch()
    assert names(folder) == (["other"] if keep else ["own"]) and names(tmp_path) == ["folder"]


def test_what_was_there_comes_back_where_the_new_folder_cannot_be_renamed(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(OSError, match="missing"):
        replace_dir(tmp_path / "missing", folder)
    assert names(folder) == ["old"] and names(tmp_path) == ["folder"]


@pytest.fixture(scope="module")
def gone() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from equipoise.common.atomic import atomic_dir, atomic_write
with atomic_dir(Path({str(tmp_path / "folder")!r})) as folder, atomic_write(Path({str(tmp_path / "a.txt")!r})) as file:
    (folder / "half").touch(), file.touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", code], check=False)
    assert killed.returncode == -signal.SIGKILL and len(names(tmp_path)) == 2
    with atomic_dir(tmp_path / "folder") as folder, atomic_write(tmp_path / "a.txt") as file:
        (folder / "whole").touch()
        file.touch()
    assert names(tmp_path) == ["a.txt", "folder"]


def test_what_is_not_known_to_be_left_stays(tmp_path: Path, gone: int) -> None:
    kept = [
        f"folder.tmp-{os.getpid()}-{HOST}-0123abcd",  # at work
        f"folder.tmp-{gone}-{'0' * 6}-0123abcd",  # of another machine
        f"folder2.tmp-{gone}-{HOST}-0123abcd",
        f"folder.tmp-{gone}.txt",
        ".folder.partial",
    ]
    removed = [f"folder.tmp-{gone}-{HOST}-0123abcd", f"folder.tmp-{gone}-0123abcd", f"folder.tmp-{gone}"]
    for name in (*kept, *removed):
        (tmp_path / name).mkdir()
    with atomic_dir(tmp_path / "folder"):
        pass
    assert names(tmp_path) == sorted([*kept, "folder"])


def test_a_folder_that_was_moved_aside_comes_back(tmp_path: Path, gone: int) -> None:
    (tmp_path / f"folder.tmp-{gone}-{HOST}-0123abcd-old").mkdir()
    (tmp_path / f"folder.tmp-{gone}-{HOST}-0123abcd-old" / "old").touch()
    with pytest.raises(RuntimeError), atomic_dir(tmp_path / "folder"):
        raise RuntimeError
    assert names(tmp_path) == ["folder"] and names(tmp_path / "folder") == ["old"]


def test_a_place_is_refused_by_the_folder_that_is_written_to(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    refuse_unwritable(tmp_path / "new" / "run", tmp_path / "new" / "run", "output")
    refuse_unwritable(tmp_path / "there", tmp_path, "export")
    with pytest.raises(
        UserError, match=r"output: .*file/run cannot be written \(Not a directory\): name another place"
    ):
        refuse_unwritable(file / "run", file / "run", "output")
    proc = Path("/proc/self/task")
    with pytest.raises(UserError, match="cannot be written"):
        refuse_unwritable(proc / "x", proc, "export")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
