"""The process of an export's check: begun ahead of time, without the project, gone with its context."""

import contextlib
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from equipoise.common.errors import UserError
from equipoise.export.check_process import CHECK, CheckProcess, run_check

SCRIPT = """
import sys
for name in ("equipoise", "tests"):
    try:
        __import__(name)
    except ImportError:
        continue
    sys.exit(f"{name} can be imported")
import helper
print("golden check passed (ctr 1e-06, onnx/cvr 2.5e-05)" if sys.argv[1:] == [helper.FOLDER] else sys.argv)
"""


def test_differences_are_read_from_the_scripts_verdict(tmp_path: Path) -> None:
    folder = tmp_path / "an export\nof two lines"
    folder.mkdir()
    (folder / CHECK).write_text(SCRIPT)
    (folder / "helper.py").write_text(f"FOLDER = {str(folder)!r}\n")
    assert run_check(folder) == {"ctr": 1e-6, "onnx/cvr": 2.5e-5}


def test_a_check_that_fails_gives_its_reason(tmp_path: Path) -> None:
    (tmp_path / CHECK).write_text("import sys\nsys.exit('a tensor is missing')\n")
    with pytest.raises(UserError, match=r"nothing was written: a tensor is missing; report it"):
        run_check(tmp_path)


def test_it_ends_with_its_context_where_no_export_came_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("equipoise.export.check_process.subprocess", subprocess)  # not forked
    before = set(psutil.Process().children())
    with pytest.raises(RuntimeError, match="no export"), CheckProcess():
        begun = set(psutil.Process().children()) - before
        raise RuntimeError("no export")
    assert begun and not any(process.is_running() for process in begun)


def test_it_ends_with_the_process_that_began_it() -> None:
    code = "import os, psutil\nfrom equipoise.export.check_process import CheckProcess\nCheckProcess().__enter__()\n"
    code += "print(psutil.Process().children()[0].pid, flush=True)\nos._exit(0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    with contextlib.suppress(psutil.NoSuchProcess):  # it has ended already
        psutil.Process(int(done.stdout)).wait(timeout=60)


@pytest.mark.parametrize("trees", [False, True])
def test_what_trees_need_is_imported_ahead_where_there_may_be_some(trees: bool, tmp_path: Path) -> None:
    (tmp_path / CHECK).write_text("import sys\nprint(f'golden check ok (ctr {int(\"lightgbm\" in sys.modules)})')\n")
    with CheckProcess(trees) as check:
        assert check.run(tmp_path) == {"ctr": float(trees)}
