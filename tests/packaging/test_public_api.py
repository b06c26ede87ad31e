"""What `equipoise` itself offers: few names, light to import, and the same in whatever order they are asked for."""

import importlib.metadata
import inspect
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import equipoise
from tests.packaging.python_api import ORDER, PAGE, render

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "peft", "accelerate", "datasets", "duckdb", "pandas", "pydantic", "numpy", "rich")
PUBLIC = {
    "Objective", "Recommender", "RunConfig", "UserError", "Weighting", "__version__", "evaluate", "export_run", "front",
    "load_config", "prepare", "train",
}  # fmt: skip


def in_new_process(code: str, **environment: str) -> str:
    """What a fresh interpreter that has imported nothing of ours prints."""
    settings = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_public_names_are_these() -> None:
    assert set(equipoise.__all__) == set(dir(equipoise)) == PUBLIC
    for name in PUBLIC:
        value = getattr(equipoise, name)
        assert name == "__version__" or inspect.getdoc(value), name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = equipoise.nonsense  # type: ignore[attr-defined]
    with pytest.raises(ImportError):
        from equipoise import nonsense  # type: ignore[attr-defined]  # noqa: F401


def test_importing_equipoise_loads_nothing_heavy() -> None:
    code = f"import sys, equipoise; equipoise.__version__; print(sorted(set({HEAVY}) & set(sys.modules)))"
    assert in_new_process(code) == "[]"
    code = f"import sys; from equipoise import UserError, train; print(sorted(set({HEAVY}) & set(sys.modules)))"
    assert in_new_process(code) == "[]"


def test_the_version_is_that_of_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert equipoise.__version__ == project

    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    assert equipoise._version() == project  # type: ignore[attr-defined]  # a checkout that is not installed


def test_train_is_a_function_and_a_room_in_any_order() -> None:
    checked = "assert callable(train) and callable(equipoise.train) and equipoise.train.schedule.__doc__"
    for first in (
        "import equipoise; from equipoise import train; import equipoise.train.schedule",
        "import equipoise.train.schedule; from equipoise import train",
        "from equipoise.train.schedule import __doc__ as _; import equipoise; from equipoise import train",
        "import equipoise.train.schedule as _; from equipoise import UserError, train; import equipoise",
    ):
        assert in_new_process(f"{first}\n{checked}\nprint(train.__name__)") == "equipoise.train"


def test_calling_train_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr("equipoise.train.job.train", lambda *arguments: calls.append(arguments) or {"finished": True})
    config = equipoise.load_config(ROOT / "configs" / "demo.yaml")
    assert equipoise.train(config, overwrite=True) == {"finished": True}
    assert calls == [(config, False, True)]
    from equipoise.train import job  # the real one, behind what stands in for it

    source = inspect.signature(job.Job).parameters
    assert list(inspect.signature(equipoise.train).parameters) == list(source)[:3]


def test_the_page_of_the_interface_is_made_of_its_docstrings() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "make it again: python -m tests.packaging.python_api"
    assert set(ORDER) == PUBLIC - {"RunConfig", "UserError", "__version__"}
