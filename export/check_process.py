"""The export's own check, run in a process without this project: isolated, elsewhere, and begun ahead of time."""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from equipoise.common.errors import UserError

CHECK = "check_golden.py"
PROJECT = ("benchmarks", "equipoise", "tests")

# An installed project would be importable even in isolated mode, so its packages are blocked by name.
_LAUNCHER = """
import contextlib, json, runpy, sys
sys.dont_write_bytecode = True
for name in {project!r}:
    sys.modules[name] = None
try:
    import equipoise
except ImportError:
    pass
else:
    sys.exit("the check can import the project, so it proves nothing")
import peft, torch, transformers
if {trees}:
    with contextlib.suppress(Exception):
        import lightgbm
folder, script = json.loads(sys.stdin.readline() or sys.exit("no export was written"))
sys.path.insert(0, folder)
sys.argv = [script, folder]
runpy.run_path(script, run_name="__main__")
"""


class CheckProcess:
    """A process that has imported what the check needs and waits for the export; use it as a context.

    Begun before the export is written, it spares the wait for those imports. It ends with the context, and with the
    process that began it.

    Args:
        trees: whether priors may have trees, so that LightGBM, where it can be, is imported ahead too.
    """

    def __init__(self, trees: bool = False) -> None:
        self.trees = trees

    def __enter__(self) -> Self:
        self._elsewhere = tempfile.TemporaryDirectory()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _LAUNCHER.format(project=PROJECT, trees=self.trees)],
            cwd=self._elsewhere.name,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._elsewhere.cleanup()

    def run(self, folder: Path) -> dict[str, float]:
        """Run the check of the export in `folder`, once.

        Returns the largest difference per objective and, of further formats, per FORMAT/OBJECTIVE.

        Raises:
            UserError: the check fails; names the worst difference or what could not be loaded.
        """
        folder = folder.resolve()
        stdout, stderr = self._process.communicate(json.dumps([str(folder), str(folder / CHECK)]) + "\n")
        verdict = next((line for line in stdout.splitlines() if line.startswith("golden check ")), None)
        if self._process.returncode != 0 or verdict is None:
            lines = (stderr.strip() or "no output").splitlines()
            reason = verdict or lines[-1]
            raise UserError(
                f"the export is refused, nothing was written: {reason}; report it with the run's config.yaml"
            )
        listed = verdict.rpartition("(")[2].rstrip(")")
        return {name: float(value) for name, value in re.findall(r"([\w/]+) ([^\s,]+)", listed)}


def run_check(folder: Path) -> dict[str, float]:
    """`CheckProcess.run` in a process begun now."""
    with CheckProcess() as check:
        return check.run(folder)
