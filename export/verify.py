"""Proves an export in a fresh process that cannot import this project."""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from equipoise.common.errors import UserError

CHECK = "check_golden.py"
PROJECT = ("benchmarks", "equipoise", "tests")
FORMATS_CHECK = "check_formats.py"

# An installed project would be importable even in isolated mode, so its packages are blocked by name.
_LAUNCHER = """
import runpy, sys
for name in {project!r}:
    sys.modules[name] = None
try:
    import equipoise
except ImportError:
    pass
else:
    sys.exit("the check can import the project, so it proves nothing")
sys.path.insert(0, {folder!r})
sys.argv = [{script!r}, {folder!r}]
runpy.run_path({script!r}, run_name="__main__")
"""


def write_check(folder: Path, formats: bool = False) -> None:
    """Put the self-contained check script into the export, and the one for further formats where it has some."""
    shutil.copyfile(Path(__file__).with_name("golden_check.py"), folder / CHECK)
    if formats:
        shutil.copyfile(Path(__file__).with_name("format_check.py"), folder / FORMATS_CHECK)


def run_check(folder: Path) -> dict[str, float]:
    """Run the export's own check script, isolated and elsewhere.

    Returns the largest difference per objective and, of further formats, per FORMAT/OBJECTIVE.

    Raises:
        UserError: the check fails; names the worst difference or what could not be loaded.
    """
    folder = folder.resolve()
    script = _LAUNCHER.format(project=PROJECT, script=str(folder / CHECK), folder=str(folder))
    with tempfile.TemporaryDirectory() as elsewhere:
        done = subprocess.run([sys.executable, "-I", "-c", script], cwd=elsewhere, capture_output=True, text=True)
    verdict = next((line for line in done.stdout.splitlines() if line.startswith("golden check ")), None)
    if done.returncode != 0 or verdict is None:
        lines = (done.stderr.strip() or "no output").splitlines()
        reason = verdict or lines[-1]
        raise UserError(f"the export is refused, nothing was written: {reason}; report it with the run's config.yaml")
    listed = verdict.rpartition("(")[2].rstrip(")")
    return {name: float(value) for name, value in re.findall(r"([\w/]+) ([^\s,]+)", listed)}
