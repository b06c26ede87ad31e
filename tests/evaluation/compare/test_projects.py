"""Runs of several projects: folders, and what W&B has of them, by its client's objects."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb

from equipoise.common.errors import UserError
from equipoise.evaluation.compare.comparison import Comparison, compare
from equipoise.evaluation.compare.tables import settings
from equipoise.evaluation.compare.wandb_projects import read_wandb_projects
from equipoise.evaluation.options import Question
from equipoise.train.trackers.wandb_run import EVALUATION, STEP
from tests.evaluation.compare.conftest import evaluation


def of_projects(record: Any, question: Question | None = None) -> Comparison:
    records = [
        record("base", evaluation(ctr=ctr), seed=seed, wandb={"project": project})
        for project, ctr in (("hats", 0.8), ("shoes", 0.7))
        for seed in (1, 2)
    ]
    return compare(records, [], question or Question())


def test_equal_configs_of_two_projects_are_two_rows_that_name_them(record: Any) -> None:
    comparison = of_projects(record)
    assert [(pool.name, len(pool.runs)) for pool in comparison.pools] == [("base (hats)", 2), ("base (shoes)", 2)]
    assert [pool.metrics["ctr/auc"].mean for pool in comparison.pools] == [0.8, 0.7]
    table = settings(comparison)
    assert table.columns[1:] == ("wandb.project",)
    assert [row[1].text for row in table.rows] == ["hats", "shoes"]


def test_one_project_is_no_column(record: Any) -> None:
    records = [
        record(name, evaluation(), wandb={"project": "hats"}, lora={"rank": r}) for name, r in (("a", 4), ("b", 8))
    ]
    assert list(compare(records, [], Question()).settings) == ["lora.rank"]


def test_projects_tell_fronts_apart(record: Any) -> None:
    comparison = of_projects(record, Question(by="wandb.project"))
    assert comparison.fronts is not None
    assert {front.method for front in comparison.fronts.fronts} == {"hats", "shoes"}


class Summary:
    """W&B's summary is no dict."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def items(self) -> Iterator[tuple[str, Any]]:
        for key, value in self.values.items():
            yield key, Summary(value) if isinstance(value, dict) else value


class Run:
    """A run as W&B's public client hands it out."""

    def __init__(self, name: str, project: str, job_type: str = "train", **config: Any) -> None:
        objectives: dict[str, Any] = (
            {"objectives": {"ctr": {}}, "balancing": {"method": "mgda"}} if job_type == "train" else {}
        )
        self.id, self.job_type = name, job_type
        self.config = {"name": name, "seed": 1, **objectives, "wandb": {"project": project}, **config}
        report = {"pointwise": {"ctr": {"auc": 0.75, "ne": "NaN"}}, "ranking": []}
        kept = {"finished": True, "steps": 2, "seconds": 60.0, "train/loss/ctr": 0.5}
        self.summary = Summary({**kept, EVALUATION: {"test": report}})

    def scan_history(self) -> Iterator[dict[str, Any]]:
        yield {"_step": 0, "_runtime": 1.5, STEP: 1, "train/loss/ctr": 0.7}
        yield {"_step": 1, "_runtime": 2.5, STEP: 2, "train/loss/ctr": float("nan")}
        yield {"_step": 2, "system": 1}


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """W&B's client in name: what it is asked for."""
    projects = {
        "team/hats": [Run("a", "hats"), Run("page", "hats", job_type="compare")],
        "team/shoes": [Run("a", "shoes"), Run("b", "shoes", lora={"rank": 8})],
        "team/other": [Run("x", "other", job_type="sweep")],
    }
    asked: list[str] = []

    class Api:
        def runs(self, path: str) -> list[Run]:
            asked.append(path)
            return projects[path]

    monkeypatch.setattr(wandb, "Api", Api)
    return asked


def test_runs_of_projects_are_as_their_folders_tell(client: list[str]) -> None:
    records = read_wandb_projects(["team/hats", "team/shoes"])
    assert client == ["team/hats", "team/shoes"]
    assert [(r.name, r.project, r.folder) for r in records] == [
        ("a", "hats", Path("team/hats/a")),
        ("a", "shoes", Path("team/shoes/a")),
        ("b", "shoes", Path("team/shoes/b")),
    ]
    first = records[0]
    assert first.finished and first.steps == 2 and first.summary["seconds"] == 60.0
    assert "train/loss/ctr" not in first.summary  # W&B's last point of a curve is no summary of ours
    assert first.history == [
        {"step": 1, "seconds": 1.5, "train/loss/ctr": 0.7},
        {"step": 2, "seconds": 2.5, "train/loss/ctr": None},
    ]
    assert first.evaluations["test"]["pointwise"]["ctr"] == {"auc": 0.75, "ne": None}
    comparison = compare(records, [], Question())
    assert [pool.name for pool in comparison.pools] == ["a (hats)", "a (shoes)", "b"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("hats", "write it as ENTITY/PROJECT"),
        ("team/missing", "W&B does not answer with its runs"),
        ("team/other", "holds no run of `equipoise train`"),
    ],
)
@pytest.mark.usefixtures("client")
def test_projects_that_cannot_be_read_are_refused(path: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_wandb_projects(["team/hats", path])
