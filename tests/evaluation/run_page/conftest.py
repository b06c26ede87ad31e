"""A whole run folder for the tests of the report, with every part that the commands leave."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare_runs import made, write_run
from equipoise.evaluation.example_slates import example_record, example_requests
from equipoise.evaluation.report import write_json

NAME = "</script><b>odd</b> 'name' & more"
PREFIX = "age <30>, often buys tea"


def axis(value: float) -> dict[str, Any]:
    """One axis of a choice, as front.json has it."""
    return {"value": value, "interval": [value - 0.01, value + 0.01], "relevance": 0.7, "difference": value - 0.7}


def front() -> dict[str, Any]:
    """A front of three trade-offs, the last dominated; the constraint's choice counts."""
    points = [
        {"omega": {"diversity": 0.0, "fairness": 0.0}, "metrics": {"ndcg": 0.75, "ild": 0.61}, "on_front": True},
        {"omega": {"diversity": 0.5, "fairness": 0.0}, "metrics": {"ndcg": 0.70, "ild": 0.72}, "on_front": True},
        {"omega": {"diversity": 0.0, "fairness": 2.0}, "metrics": {"ndcg": 0.60, "ild": 0.60}, "on_front": False},
    ]
    choices = {
        "knee": {"how": "the knee", "point": 0, **points[0], "valid": {"ndcg": axis(0.75), "ild": axis(0.61)}},
        "constraint": {
            "how": "ild>=0.7", "point": 1, **points[1],
            "valid": {"ndcg": axis(0.70), "ild": axis(0.72)}, "test": {"ndcg": axis(0.69), "ild": axis(0.71)},
        },
    }  # fmt: skip
    return {
        "cutoff": 10, "axes": ["ndcg", "ild"], "valid": {"requests": 30}, "hypervolume": {"normalised": 0.637},
        "points": points, "choices": choices, "chosen": "constraint",
    }  # fmt: skip


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that is evaluated, with example slates and a front."""
    scored = made(1, requests=60, candidates=12)
    folder = write_run(tmp_path_factory.mktemp("whole") / "run", {"name": NAME}, scored, records=300)
    split = {"requests": 90, "impressions": 1080, "clicks": 54, "conversions": 9, "click_rate": 0.05,
             "conversion_rate": 1 / 120, "first": "2026-01-01T00:00:00", "last": "2026-02-01T00:00:00"}  # fmt: skip
    data = {"source": "complete_journey", "folder": "prepared", "created": "2026-03-01", "counts": {"items": 400},
            "splits": {"train": split}, "dropped": {"events without a title": 3}, "notes": ["a note"]}  # fmt: skip
    (folder / "data.json").write_text(json.dumps(data))
    (folder / "environment.json").write_text(
        json.dumps({"git": {"commit": "ab" * 20, "branch": "main", "dirty": True}})
    )
    requests = {number: {"request_id": f"r{number}", "prefix": PREFIX} for number in example_requests(scored.table)}
    titles = [f"item <{number}>" for number in range(400)]
    write_json(example_record(scored.table, requests, titles, ["provider"]), folder / "examples_test.json")
    write_json(front(), folder / "front.json")
    return folder


def recall() -> dict[str, Any]:
    """The recall in an evaluation, as `Recalls.report` gives it, of ours and two baselines; all numbers differ."""
    report: dict[str, Any] = {
        "shoppers": 1500,
        "items": 10_699,
        "weights": {"scale": 14.6, "prior": 0.65, "repeat": 3.0},
    }
    for which, most in (("all", 0.5), ("new", 0.3)):
        report[which] = {}
        for place, name in enumerate(("ours", "bought before", "BM25")):
            for cutoff in (50, 200):
                value = most - 0.1 * place - (0.05 if cutoff == 50 else 0.0)
                entry = report[which].setdefault(name, {})
                entry |= {f"recall{cutoff}": value, f"recall{cutoff}_interval": [value - 0.02, value + 0.02]}
    verdicts = {"all": [0.01, 0.2], "new": [-0.1, 0.3]}
    report["against_best"] = {
        which: {"baseline": "bought before", "difference": 0.1, "interval": bounds}
        for which, bounds in verdicts.items()
    }
    return report


@pytest.fixture(scope="session")
def recalling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the objective recall, evaluated on test alone."""
    scored = made(2, requests=20, candidates=5)
    scored.evaluation["recall"] = recall()
    return write_run(tmp_path_factory.mktemp("recalling") / "run", {"objectives.recall": {"shoppers": 8}}, scored)


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed before its first log line: a config alone."""
    folder = write_run(tmp_path_factory.mktemp("bare") / "run", {}, None, finished=False)
    (folder / "metrics.jsonl").write_text("")
    return folder
