"""`equipoise run`: from tables to an export by one command, which goes on where it was stopped."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from equipoise.configs.load import load_config, save_config
from equipoise.launch import run as whole
from equipoise.launch.cli import main
from equipoise.train.job import settle
from tests.tiny_run import run_settings, write_config


def ended(*arguments: str) -> int | str | None:
    """The exit code of a command."""
    try:
        main(["run", *arguments])
    except SystemExit as stop:
        return stop.code
    return 0


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The path of a configuration whose run takes two steps; files of a command lie where it is called."""
    monkeypatch.chdir(tmp_path)
    settings = run_settings(tmp_path, max_steps=2, self_check=False)
    return str(write_config(settings, tmp_path / "shop.yaml"))


@pytest.mark.slow
def test_it_goes_from_tables_to_an_export_and_then_has_nothing_left_to_train(
    config: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert not ended(config)
    said = capfd.readouterr().out
    assert "next: equipoise serve exports/run" in said
    assert said.splitlines()[-1].startswith("preparing ") and "training" in said.splitlines()[-1]
    for name in ("run/evaluation_test.json", "run/report.html", "exports/run/check_golden.py"):
        assert (tmp_path / name).is_file(), name
    steps = (tmp_path / "run" / "metrics.jsonl").read_bytes()

    export = (tmp_path / "exports" / "run" / "serving.json").read_bytes()
    (tmp_path / "run" / "evaluation_test.json").unlink()
    assert not ended(config)
    said = capfd.readouterr().out
    assert "is trained: --overwrite trains it anew" in said
    assert said.splitlines()[-1].startswith("evaluating ") and "export" not in said.splitlines()[-1]
    assert (tmp_path / "run" / "evaluation_test.json").is_file()
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == steps
    assert (tmp_path / "exports" / "run" / "serving.json").read_bytes() == export

    assert ended(config, "train.max_steps=3") == 2
    assert "train.max_steps (was 2, now 3)" in capfd.readouterr().err
    assert not ended(config, "train.max_steps=3", "--overwrite")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 3


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was done, with (resume, overwrite) of each training, which a signal stops at once."""
    calls: list[Any] = []

    def train(config: Any, resume: bool, overwrite: bool) -> bool:
        calls.append((resume, overwrite))
        return False

    prepare = whole.prepare_data
    monkeypatch.setattr(whole, "prepare_data", lambda config: (calls.append("prepared"), prepare(config)))
    monkeypatch.setattr(whole, "train_here", train)
    return calls


def begin(config: str, folder: Path, *more: str) -> None:
    """Leave what a training leaves before its first step, and files of its later ones."""
    settled, _ = settle(load_config(config), False, None)
    for name in (".equipoise-run", *more):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}\n")
    save_config(settled, folder / "config.yaml")


def test_a_stopped_run_goes_on_without_preparing_again(config: str, tmp_path: Path, stopped: list[Any]) -> None:
    assert ended(config) == 75 and stopped == ["prepared", (False, False)]
    stopped.clear()
    begin(config, tmp_path / "run")  # without a checkpoint: from the first step
    assert ended(config) == 75 and stopped == [(False, True)]
    stopped.clear()
    begin(config, tmp_path / "run", "checkpoints/step-2/state.json")
    assert ended(config) == 75 and stopped == [(True, False)]
    stopped.clear()
    shutil.rmtree(tmp_path / "prepared")
    assert ended(config) == 75 and stopped == ["prepared", (True, False)]


def test_other_settings_do_not_meet_data_of_before(
    config: str, tmp_path: Path, stopped: list[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    assert ended(config) == 75
    begin(config, tmp_path / "run")
    stopped.clear()
    assert ended(config, "lora.rank=8", "train.log_every=5") == 2 and not stopped
    error = capfd.readouterr().err
    assert "lora.rank (was 4, now 8)" in error and "log_every" not in error
    assert ended(config, "lora.rank=8", "--overwrite") == 75 and stopped == ["prepared", (False, True)]


@pytest.mark.parametrize(
    ("place", "arguments", "reason"),
    [
        ("exports/run/notes.txt", (), "exports/run exists and is not an export"),
        ("exports/run/serving.json", (), "exports/run holds an earlier export"),
        ("run/mine/notes.txt", ("--overwrite",), "holds what no run writes (mine)"),
        ("file", ("--export", "file/x"), "export: file/x cannot be written (Not a directory)"),
        ("file", ("output=file/x",), "output: file/x cannot be written (Not a directory)"),
        (None, ("--export", "run/x"), "run/x lies in the run"),
        (None, ("--export", "prepared/x"), "prepared/x lies in data.folder"),
        (None, ("--accelerate", "nowhere"), "--accelerate nowhere is neither a file nor one of"),
        (None, ("--export", "."), "holds the run itself"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is_done(
    place: str | None, arguments: tuple[str, ...], reason: str, config: str, capfd: pytest.CaptureFixture[str]
) -> None:
    if place is not None:
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        Path(place).write_text("mine")
        if place.startswith("run/"):
            Path("run/.equipoise-run").touch()
    assert ended(config, *arguments) == 2
    assert reason in " ".join(capfd.readouterr().err.split())
    assert not Path("prepared").exists()
    assert place is None or Path(place).read_text() == "mine"


def test_it_is_not_launched_in_many_processes(
    config: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert ended(config) == 2
    assert "run it once, with --accelerate NAME" in capfd.readouterr().err
