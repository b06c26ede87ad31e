"""Runs that the tests of the comparison share: records without folders, and whole folders."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare_runs import Made, made, write_run
from equipoise.evaluation.compare.run_records import RunRecord

Evaluation = dict[str, Any]


def evaluation(ctr: float | None = 0.8, cvr: float | None = 0.7, **points: dict[str, float]) -> Evaluation:
    """An evaluation with pCTR and pCTCVR AUC, and at operating points (relevance, diversity, …) NDCG@10 and ILD@10."""
    ranking = []
    for name, values in points.items():
        ranking.append({"omega": {} if name == "relevance" else {name: 1.0}, **values})
    return {"pointwise": {"ctr": {"auc": ctr, "ne": 0.6}, "ctcvr": {"auc": cvr}}, "ranking": ranking}


@pytest.fixture(scope="session")
def record() -> Callable[..., RunRecord]:
    """A finished run without a folder: name, evaluation on test, and its config by keyword."""

    def build(name: str, found: Evaluation | None, seed: int = 0, **config: Any) -> RunRecord:
        settings = {"name": name, "seed": seed, "objectives": {"ctr": {}, "cvr": {}}, "balancing": {"method": "mgda"}}
        summary = {"finished": True, "steps": 10, "seconds": 60.0}
        held = {} if found is None else {"test": found}
        return RunRecord(Path("runs") / name, name, None, settings | config, summary, [], held)

    return build


@pytest.fixture(scope="session")
def models() -> list[Made]:
    """Three scorings of the same 40 requests."""
    return [made(number, requests=40, candidates=10) for number in range(3)]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, models: list[Made]) -> Path:
    """A folder of two methods with two seeds each, one unfinished run, one not evaluated, and one broken."""
    folder = tmp_path_factory.mktemp("runs")
    for number, (method, seed) in enumerate((m, s) for m in ("pcgrad", "mgda") for s in (1, 2)):
        changes = {"seed": seed, "balancing.method": method, "wandb": {"group": "both"}}
        write_run(folder / f"{method}-seed{seed}", changes, models[number % 3], records=60)
    write_run(folder / "stopped", {"balancing.method": "nash"}, None, finished=False)
    write_run(folder / "unmeasured", {"balancing.method": "upgrad"}, None)
    write_run(folder / "torn", {"balancing.method": "famo"}, None)
    (folder / "torn" / "config.yaml").write_text("name: [")
    return folder
