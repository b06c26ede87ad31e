"""Every case of the page on survival names a test that there is."""

import ast
import re

from tests.packaging.docs_blocks import ROOT

ROW = re.compile(r"^\| (?P<case>\w+) \| [^|]+ \| [^|]+ \| `(?P<file>tests/[\w/]+\.py)::(?P<test>\w+)(\[[\w-]+\])?` \|$")
CASES = 44


def test_each_case_names_a_test() -> None:
    section = (ROOT / "docs" / "survival.md").read_text("utf-8").split("## Odd inputs")[1].split("\n## ")[0]
    lines = [
        line for line in section.splitlines() if line.startswith("| ") and not line.startswith(("| case", "| ---"))
    ]
    rows = [ROW.match(line) for line in lines]
    assert all(rows), [line for line, row in zip(lines, rows, strict=True) if not row]
    found = [row.groupdict() for row in rows if row]
    assert len({row["case"] for row in found}) == len(found) >= CASES
    for row in found:
        tree = ast.parse((ROOT / row["file"]).read_text("utf-8"))
        names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert row["test"] in names, row
