"""The code blocks of an export's README: run as they stand, each alone, in a process that cannot import the project."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import isolated


def blocks(export: Path, language: str) -> list[str]:
    """All blocks of a language in the README."""
    return re.findall(rf"```{language}\n(.*?)```", (export / "README.md").read_text("utf-8"), flags=re.DOTALL)


def run_python(export: Path) -> list[str]:
    """Run all Python blocks; each prints an objective's name, and numbers beside golden ones. Returns the names."""
    names = []
    for block in blocks(export, "python"):
        done = isolated.run([sys.executable, "-c", block], export, {"PATH": ""})
        assert done.returncode == 0, f"{block}\n{done.stderr}"
        (line,) = done.stdout.splitlines()
        name, *numbers = line.split()
        values = [float(number) for number in numbers]
        assert values and values[0::2] == pytest.approx(values[1::2], abs=1e-4), line
        names.append(name)
    return names


def request_of(export: Path) -> dict[str, Any]:
    """The body that the README posts to `equipoise serve`."""
    pattern = re.compile(r"'REQUEST'\n(.*)\nREQUEST", re.DOTALL)
    (body,) = (found[1] for block in blocks(export, "bash") if (found := pattern.search(block)))
    return json.loads(body)
