"""A run folder is checked before it is changed, held by one training, and replaced last."""

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from equipoise.common.errors import UserError
from equipoise.configs.schema import RunConfig
from equipoise.train.run_folder import MARKER, RunFolder, refuse_places
from equipoise.train.world import World

NOTHING: Callable[[], None] = lambda: None  # noqa: E731


def folder(run: Path) -> RunFolder:
    return RunFolder(run, World(), ["equipoise"])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of before, which has no marker."""
    made = tmp_path / "run"
    (made / "adapters").mkdir(parents=True)
    (made / "config.yaml").write_text("name: old")
    (made / "summary.json").write_text(json.dumps({"finished": True}))
    return made


def content(run: Path) -> dict[str, str]:
    files = (path for path in sorted(run.rglob("*")) if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(run)): path.read_text() for path in files}


@pytest.mark.parametrize(
    ("resume", "overwrite", "sentence"),
    [
        (True, True, "exclude each other"),
        (False, False, "already holds a run: add --resume or --overwrite"),
        (True, False, "is finished and has no checkpoint to go on from"),
    ],
)
def test_a_run_is_refused_and_left_as_it_was(run: Path, resume: bool, overwrite: bool, sentence: str) -> None:
    before = content(run)
    with pytest.raises(UserError, match=sentence):
        folder(run).check(resume, overwrite)
    assert content(run) == before


def test_there_must_be_something_to_resume_or_to_write_to(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run to resume"):
        folder(tmp_path / "none").check(resume=True, overwrite=False)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is a file"):
        folder(tmp_path / "file").check(resume=False, overwrite=True)
    folder(tmp_path / "none").check(resume=False, overwrite=False)
    assert not (tmp_path / "none").exists()


def test_foreign_files_are_not_deleted(run: Path) -> None:
    (run / "notes.txt").write_text("months of work")
    with pytest.raises(UserError, match=r"what no run writes \(notes\.txt\).*move it away"):
        folder(run).check(resume=False, overwrite=True)
    (run / "notes.txt").unlink()
    folder(run).check(resume=False, overwrite=True)


def test_a_config_alone_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "config.yaml").write_text("a: 1")
    with pytest.raises(UserError, match="nothing else of a run, so it is not replaced"):
        folder(tmp_path / "project").check(resume=False, overwrite=True)


def test_what_is_replaced_is_deleted_after_the_first_step(run: Path) -> None:
    new = folder(run)
    new.check(False, True)
    new.claim(True, lambda: (run / "config.yaml").write_text("name: new") and None)
    assert (run / MARKER).is_file() and not (run / "adapters").exists()
    assert (new.aside / "config.yaml").read_text() == "name: old"
    new.begin()
    assert not new.aside.exists() and (run / "config.yaml").read_text() == "name: new"
    new.give_back()  # a failure later changes nothing
    new.release()
    assert (run / "config.yaml").read_text() == "name: new"


def test_what_is_replaced_comes_back_if_the_new_run_does_not_begin(run: Path) -> None:
    before, new = content(run), folder(run)
    new.claim(True, NOTHING)
    new.give_back()
    new.release()
    assert content(run) == before and not new.aside.exists()


def test_what_cannot_be_written_at_the_beginning_brings_it_back(run: Path) -> None:
    before = content(run)

    def fail() -> None:
        raise OSError(28, "No space left on device", str(run / "config.yaml"))

    with pytest.raises(UserError, match=r"config\.yaml cannot be written \(No space left on device\)"):
        folder(run).claim(True, fail)
    assert content(run) == before


def test_a_killed_replacement_does_not_lose_the_run(run: Path) -> None:
    killed = folder(run)
    killed.claim(True, NOTHING)
    killed.release()  # as the kernel does
    again = folder(run)
    again.claim(True, NOTHING)
    assert (again.aside / "config.yaml").read_text() == "name: old"
    again.release()


def test_a_new_folder_goes_if_its_run_does_not_begin(tmp_path: Path) -> None:
    new = folder(tmp_path / "new")
    new.claim(False, NOTHING)
    new.give_back()
    new.release()
    assert not (tmp_path / "new").exists()


def _hold(run: Path, ready: Any, done: Any) -> None:
    held = folder(run)
    held.claim(False, NOTHING)
    ready.set()
    done.wait(30)


def test_two_trainings_never_write_into_one_folder(run: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(run, ready, done))
    other.start()
    assert ready.wait(30)
    before = content(run)
    try:
        for act in (lambda: folder(run).check(False, True), lambda: folder(run).claim(True, NOTHING)):
            with pytest.raises(UserError, match=rf"is being trained by process {other.pid} on .*: wait until it ends"):
                act()
        assert content(run) == before
    finally:
        other.kill()
        other.join()
    free = folder(run)
    free.claim(False, NOTHING)  # one that was killed holds nothing
    free.release()


def _config(tmp_path: Path, output: Path) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "run",
            "output": str(output),
            "data": {
                "folder": str(tmp_path / "data" / "prepared"),
                "tables": {"impressions": str(tmp_path / "tables" / "a.csv"), "items": str(tmp_path / "b.csv")},
            },
            "backbone": {"path": str(tmp_path / "base")},
            "objectives": {"ctr": {}},
            "train": {"batch_size": 4},
        }
    )


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("/", r"output: / holds data\.folder"),
        ("data/prepared", r"lies in data\.folder"),
        ("data/prepared/run", r"lies in data\.folder"),
        ("data", r"holds data\.folder"),
        ("base", r"holds backbone\.path"),
        ("tables", r"holds data\.tables\.impressions"),
        ("elsewhere/../data", r"holds data\.folder"),
    ],
)
def test_an_output_beside_which_nothing_is_safe_is_refused(tmp_path: Path, output: str, sentence: str) -> None:
    for name in ("tables", "base"):
        (tmp_path / name).mkdir()
    (tmp_path / "tables" / "a.csv").write_text("")
    with pytest.raises(UserError, match=sentence):
        refuse_places(_config(tmp_path, tmp_path / output))


def test_the_working_and_the_home_folder_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here" / "deeper"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    with pytest.raises(UserError, match="holds the working folder"):
        refuse_places(_config(tmp_path, tmp_path / "here"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(here))
    with pytest.raises(UserError, match="holds the home folder"):
        refuse_places(_config(tmp_path, here))
    refuse_places(_config(tmp_path, tmp_path / "runs" / "one"))
