"""Processes of a launcher tokenise together: the same files as of one, and one of them does the rest."""

import shutil
import sys
from pathlib import Path

from tests.distributed.conftest import run_command
from tests.tiny_run import run_settings, write_config


def test_the_processes_of_a_launcher_share_the_tokens(tiny_config: Path, tmp_path: Path) -> None:
    settings = run_settings(tmp_path)
    shutil.copytree(tiny_config.parent / "prepared", tmp_path / "prepared", ignore=shutil.ignore_patterns("tokens"))
    settings["data"]["folder"] = str(tmp_path / "prepared")
    config = write_config(settings, tmp_path / "config.yaml")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = run_command([*torchrun, "-m", "equipoise.launch.cli", "tokenize", str(config)])
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = (tmp_path / "prepared" / "tokens").iterdir()
    whole = tiny_config.parent / "prepared" / "tokens" / made.name  # beside those that jobs with other settings made
    assert whole.is_dir()
    # The first process alone tells of it, whoever put it together, also where the other was done before it looked.
    assert done.stdout.count(f"{made}\n") + done.stdout.count(f"{made} is complete\n") == 1
    for path in whole.iterdir():
        if not path.name.startswith("."):
            assert (made / path.name).read_bytes() == path.read_bytes(), path.name
