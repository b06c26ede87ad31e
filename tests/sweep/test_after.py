"""What ends a sweep."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from equipoise.launch.sweep import run_sweep as sweep_run
from equipoise.sweep.after import compare_command
from equipoise.sweep.claim import make_ready
from equipoise.sweep.config import SweepConfig, load_sweep
from equipoise.sweep.options import SweepOptions
from equipoise.sweep.plan import PlannedRun, make_plan
from tests.tiny_run import run_settings, write_config


def plan_of(folder: Path, **settings: Any) -> tuple[SweepConfig, list[PlannedRun]]:
    base = write_config(run_settings(folder), folder / "config.yaml")
    common = {"name": "tiny", "base": str(base), "output": str(folder / "sweep"), "after": "compare"}
    (folder / "sweep.yaml").write_text(yaml.safe_dump({**common, **settings}, sort_keys=False))
    sweep = load_sweep(folder / "sweep.yaml")
    return sweep, make_plan(sweep)


def test_comparison_names_the_runs_that_have_begun(tmp_path: Path) -> None:
    sweep, plan = plan_of(tmp_path, seeds=[1, 2, 3], evaluate={"split": "valid"})
    for run in plan[:2]:
        run.folder.mkdir(parents=True)
        (run.folder / "config.yaml").touch()
    arguments = compare_command(sweep, plan)[3:]
    folder = tmp_path / "sweep"
    assert arguments[:5] == ["compare", str(folder / "seed-1"), str(folder / "seed-2"), "--split", "valid"]
    assert str(folder / "seed-3") not in arguments and arguments[5:7] == ["--html", str(folder / "compare.html")]


@pytest.mark.parametrize(("finished", "code"), [(True, 0), (True, 3), (False, 0)])
def test_sweep_ends_with_the_comparison(
    finished: bool, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands: list[list[str]] = []

    class Done:
        returncode = code

    sweep, plan = plan_of(tmp_path, seeds=[1, 2])
    make_ready(sweep, plan[0])
    (plan[0].folder / "config.yaml").touch()
    (plan[0].folder / "summary.json").write_text(json.dumps({"finished": finished}))
    monkeypatch.setattr("equipoise.sweep.after.subprocess.run", lambda command, check: commands.append(command) or Done)
    collect = SweepOptions(collect=True)
    if code:
        with pytest.raises(typer.Exit) as ended:
            sweep_run(tmp_path / "sweep.yaml", collect)
        assert ended.value.exit_code == code
    else:
        sweep_run(tmp_path / "sweep.yaml", collect)
    assert len(commands) == finished  # nothing is compared where nothing has finished
    assert ("compare.html" in capsys.readouterr().out) == (finished and not code)
