"""`train --auto-resume`: begins a run or goes on with it, as a launcher that starts a job again needs."""

from pathlib import Path
from typing import Any

import pytest

from equipoise.launch.cli import main
from equipoise.train import job
from tests.tiny_run import run_settings, write_config


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """How the training was called, which a signal stops at once."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(job, "train", lambda config, **options: calls.append(options))
    return calls


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ((), {"resume": False, "overwrite": False}),
        ((".equipoise-run",), {"resume": False, "overwrite": True}),  # killed before its settings were written
        ((".equipoise-run", "config.yaml"), {"resume": True, "overwrite": False}),
    ],
)
def test_it_begins_or_goes_on(
    held: tuple[str, ...], expected: Any, asked: list[dict[str, Any]], tmp_path: Path
) -> None:
    settings = run_settings(tmp_path)
    config = write_config(settings, tmp_path / "config.yaml")
    run = Path(settings["output"])
    for name in held:
        run.mkdir(exist_ok=True)
        (run / name).write_text("{}\n")
    with pytest.raises(SystemExit) as stop:
        main(["train", str(config), "--auto-resume"])
    assert stop.value.code == 75 and asked == [expected]


@pytest.mark.parametrize("other", ["--resume", "--overwrite"])
def test_it_decides_alone(other: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = write_config(run_settings(tmp_path), tmp_path / "config.yaml")
    with pytest.raises(SystemExit) as stop:
        main(["train", str(config), "--auto-resume", other])
    assert stop.value.code == 2
    assert "--auto-resume decides by itself whether to go on" in capfd.readouterr().err
