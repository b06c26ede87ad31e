"""The notebook of the docs runs from its first cell to its last, in a kernel of its own, and reaches what it says."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

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
