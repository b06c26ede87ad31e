"""A loaded export answers its own golden requests, and one whose answers are others is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from equipoise.common.errors import UserError
from equipoise.serving.golden import refuse_wrong_answers
from equipoise.serving.recommender import Recommender


def test_an_export_answers_its_golden_requests(tiny_export: Callable[..., Any], tmp_path: Path) -> None:
    export = tiny_export("llama").folder
    recommender = Recommender.load(export)
    assert refuse_wrong_answers(recommender) == len((export / "golden.jsonl").read_text("utf-8").splitlines())
    changed = tmp_path / "export"
    shutil.copytree(export, changed)
    lines = [json.loads(line) for line in (export / "golden.jsonl").read_text("utf-8").splitlines()]
    lines[-1]["probability"]["ctr"] += 0.01
    (changed / "golden.jsonl").write_text("\n".join(map(json.dumps, lines)), "utf-8")
    recommender.export = changed
    with pytest.raises(UserError, match="does not answer its golden requests: a probability of ctr"):
        refuse_wrong_answers(recommender)
    (changed / "golden.jsonl").unlink()
    with pytest.raises(UserError, match="is missing or broken"):
        refuse_wrong_answers(recommender)
