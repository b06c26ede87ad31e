"""`equipoise run`: from tables to an export by one command, which goes on where it was stopped."""

import json
from pathlib import Path
from typing import Any

import pytest

from equipoise.launch import run as whole
from equipoise.launch.cli import main
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
    assert "next: equipoise serve exports/tiny" in said
    assert said.splitlines()[-1].startswith("preparing ") and "training" in said.splitlines()[-1]
    for name in ("run/evaluation_test.json", "run/report.html", "exports/tiny/check_golden.py"):
        assert (tmp_path / name).is_file(), name
    steps = (tmp_path / "run" / "metrics.jsonl").read_bytes()

    (tmp_path / "run" / "evaluation_test.json").unlink()
    assert not ended(config)
    said = capfd.readouterr().out
    assert "is trained: --overwrite trains it anew" in said and "training " not in said.splitlines()[-1]
    assert (tmp_path / "run" / "evaluation_test.json").is_file()
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == steps

    assert ended(config, "train.max_steps=3") == 2
    assert "train.max_steps (was 2, now 3)" in capfd.readouterr().err
    assert not ended(config, "train.max_steps=3", "--overwrite")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 3


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ((), (False, False)),
        ((".equipoise-run",), (False, True)),  # killed before its settings were written
        ((".equipoise-run", "config.yaml"), (True, False)),
    ],
)
def test_a_stopped_run_goes_on_without_preparing_again(
    held: tuple[str, ...],
    expected: tuple[bool, bool],
    config: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[Any] = []

    def stopped(config: Any, resume: bool, overwrite: bool) -> bool:
        calls.append((resume, overwrite))
        return False

    monkeypatch.setattr(whole, "prepare_data", lambda config: calls.append("prepared"))
    monkeypatch.setattr(whole, "train_here", stopped)
    for name in held:
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / name).write_text("{}\n")
    assert ended(config) == 75
    assert calls == [*([] if expected[0] else ["prepared"]), expected]


@pytest.mark.parametrize(
    ("place", "arguments", "reason"),
    [
        ("exports/tiny/notes.txt", (), "exports/tiny exists and is not an export"),
        ("other/adapters.json", ("--export", "other"), "other"),
        (None, ("--accelerate", "nowhere"), "--accelerate nowhere is neither a file nor one of"),
        (None, ("--export", "."), "holds the run itself"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is_done(
    place: str | None, arguments: tuple[str, ...], reason: str, config: str, capfd: pytest.CaptureFixture[str]
) -> None:
    if place is not None:
        Path(place).parent.mkdir(parents=True)
        Path(place).write_text("mine")
    assert ended(config, *arguments) == 2
    assert reason in capfd.readouterr().err
    assert not Path("prepared").exists() and not Path("run").exists()


def test_it_is_not_launched_in_many_processes(
    config: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert ended(config) == 2
    assert "run it once, with --accelerate NAME" in capfd.readouterr().err
