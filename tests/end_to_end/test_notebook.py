"""The notebook of the docs runs from its first cell to its last, in a kernel of its own, and the README's code runs."""

import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.packaging.docs_blocks import blocks
from tests.tiny_run import run_settings, write_config

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
CHECK = """
assert auc["Equipoise"] > 0.6 and len(front["points"]) > 100
assert len(ranking.candidates) == 7 and ranking.candidates[0].item_id in ("i0", "i2", None)
assert why.candidates[0].sentences
"""


def test_the_first_run_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]))
    notebook = nbformat.read(ROOT / "docs" / "notebooks" / "first_run.ipynb", as_version=4)
    stored = [cell.source for cell in notebook.cells]
    notebook.cells.append(nbformat.v4.new_code_cell(CHECK))
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    assert [cell.source for cell in notebook.cells[:-1]] == stored
    printed = "".join(o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", ()))
    for noise in ("kernels-community", "Setting accelerator", "broadcast_buffers", "Generating", "\x1b["):
        assert noise not in printed
    assert (tmp_path / "first_run" / "export" / "serving.json").is_file()


def test_the_code_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = [block for block in blocks("python") if block.page == "README.md"]
    write_config(run_settings(tmp_path), tmp_path / "my_shop.yaml")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(block.text, block.page, "exec"), names)
    assert {each.item_id for each in names["ranking"].candidates} == {"i1", "i2"}
    assert names["report"]["requests"] == 12 and (tmp_path / "run" / "front.json").is_file()
