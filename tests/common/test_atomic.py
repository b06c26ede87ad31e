"""Files and folders appear completely or not at all."""

from pathlib import Path

import pytest

from equipoise.common.atomic import atomic_dir, atomic_write, replace_dir


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
