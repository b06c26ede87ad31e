"""Which room may import which, and no circle of modules: the contract that docs/design.md quotes."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CONTRACT = """
launch             → everything below
sweep              → train, data, configs, common
nightly            → evaluation, evaluation.metrics, export, train, modeling, data, configs, common
scoring            → serving, train, modeling, data, configs, common
evaluation         → evaluation.metrics, export, train, modeling, data, configs, common
serving            → export, modeling, data, configs, common
export             → evaluation.metrics, train, modeling, data, configs, common
train              → evaluation.metrics, modeling, data, configs, common
evaluation.metrics → configs, common
modeling           → data (features, ragged, recall_texts, things and thing_columns alone), configs, common
data               → configs, common
configs            → common
common             → nothing
"""
ROOMS = [line.split("→")[0].strip() for line in CONTRACT.strip().splitlines()]
MODELING_READS_OF_DATA = {
    f"equipoise.data.{name}" for name in ("features", "ragged", "recall_texts", "things", "thing_columns")
}


def _room(module: str) -> str:
    parts = module.split(".")[1:]
    return "evaluation.metrics" if parts[:2] == ["evaluation", "metrics"] else parts[0]


def _modules() -> dict[str, Path]:
    names = {room.partition(".")[0] for room in ROOMS}
    files = [path for name in names for path in (ROOT / name).rglob("*.py")]
    dotted = {".".join(("equipoise", *path.relative_to(ROOT).with_suffix("").parts)): path for path in files}
    return {name.removesuffix(".__init__"): path for name, path in dotted.items()}


def _imports(path: Path, modules: dict[str, Path]) -> Iterator[str]:
    """Modules of ours that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in modules else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    """Module → modules of ours that it imports."""
    modules = _modules()
    return {name: {found for found in _imports(path, modules) if found in modules} for name, path in modules.items()}


def test_rooms_import_only_what_the_contract_allows(graph: dict[str, set[str]]) -> None:
    allowed = {}
    for line in CONTRACT.strip().splitlines():
        room, _, below = line.partition("→")
        words = set(below.replace(",", " ").split())
        allowed[room.strip()] = set(ROOMS) if "everything" in words else words & set(ROOMS)
    assert set(map(_room, graph)) == set(ROOMS)
    broken = sorted(
        f"{importer} → {imported}"
        for importer, imports in graph.items()
        for imported in imports
        if _room(importer) != _room(imported) and _room(imported) not in allowed[_room(importer)]
    )
    assert not broken


def test_modeling_reads_nothing_else_of_data(graph: dict[str, set[str]]) -> None:
    reads = {i for name, imports in graph.items() if _room(name) == "modeling" for i in imports if _room(i) == "data"}
    assert reads <= MODELING_READS_OF_DATA


def test_no_circle_of_modules(graph: dict[str, set[str]]) -> None:
    """Modules that import nothing left are taken away until none is left; what remains is a circle or above one."""
    left = {name: set(imports) - {name} for name, imports in graph.items()}
    while free := [name for name, imports in left.items() if not imports & left.keys()]:
        for name in free:
            del left[name]
    assert not sorted(left)


def test_the_docs_quote_the_contract() -> None:
    assert CONTRACT in (ROOT / "docs" / "design.md").read_text("utf-8")
