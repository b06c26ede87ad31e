"""A run and an export that the first wave wrote (tests/fixtures) are read as before and give the same numbers.

The archive holds `run`, `prepared`, `export` and what the commands of that time made of them: `scores`,
`recommended.jsonl`, `recalled.jsonl` and, in the run, `evaluation_test.json`.
"""

import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.forked_job import run_forked

pytestmark = pytest.mark.slow
FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
TOLERANCE = 1e-5  # another CPU adds up in another order


@pytest.fixture(scope="module")
def first_wave(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked archive; commands run in it, for the paths in its configuration are relative."""
    folder = tmp_path_factory.mktemp("archive")
    with tarfile.open(FIXTURES / "first_wave.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "first_wave"


def run(folder: Path, *arguments: str) -> str:
    """The output of a command that must succeed, run in the folder."""
    done = run_forked(arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def same(now: Any, before: Any, place: str = "") -> None:
    """Assert that all of `before` is there now: numbers within the tolerance, everything else equal."""
    if isinstance(before, dict):
        assert isinstance(now, dict), place
        for key, value in before.items():
            same(now[key], value, f"{place}/{key}")
    elif isinstance(before, list):
        assert isinstance(now, list) and len(now) == len(before), place
        for index, value in enumerate(before):
            same(now[index], value, f"{place}/{index}")
    elif isinstance(before, float):
        assert now == pytest.approx(before, rel=TOLERANCE, abs=TOLERANCE), place
    else:
        assert now == before, place


def test_scores_of_the_run(first_wave: Path) -> None:
    slates = next((first_wave / "prepared" / "slates").glob("test*.parquet"))
    run(first_wave, "score", "run", str(slates), "scores_now")
    tables = [
        pq.read_table(first_wave / name / "scores-00000.parquet").to_pydict() for name in ("scores", "scores_now")
    ]
    same(tables[1], tables[0])


def test_evaluation_of_the_run(first_wave: Path) -> None:
    before = json.loads((first_wave / "run" / "evaluation_test.json").read_text("utf-8"))
    run(first_wave, "evaluate", "run")
    now = json.loads((first_wave / "run" / "evaluation_test.json").read_text("utf-8"))
    (place,) = (place for place, said in enumerate(before["verdict"]) if said.startswith("NDCG@"))
    numbers, _, claimed = before["verdict"][place].rpartition(": ")
    assert claimed == "the baseline wins"  # which a report says no longer, for the interval does not bear it out
    low, high = now["ndcg_difference"]["difference_interval"]
    assert low < 0 < high
    before["verdict"][place] = f"{numbers} (95% interval {low:+.3f} to {high:+.3f}): no clear winner"
    for report in (before, now):  # unseen items tie, and ties share their places now
        assert report["ranking_baselines"].pop("item popularity")
    same(now, before)


def test_rankings_and_recall_of_the_export(first_wave: Path) -> None:
    run(first_wave, "recommend", "export", "--users", "requests.jsonl", "--out", "recommended_now.jsonl")
    same(rows_of(first_wave / "recommended_now.jsonl"), rows_of(first_wave / "recommended.jsonl"))
    recall = ("recall", "export", "--requests", "people.jsonl", "--out", "recalled_now.jsonl", "--top", "5")
    run(first_wave, *recall)
    same(rows_of(first_wave / "recalled_now.jsonl"), rows_of(first_wave / "recalled.jsonl"))


def test_the_run_is_measured_and_exported_anew(first_wave: Path) -> None:
    """The front's choice and the golden numbers of a new export are those of the old one."""
    run(first_wave, "front", "run", "--where", "ndcg>=90%", "--maximize", "exposure_ratio", "--confidence", "0")
    run(first_wave, "export", "run", "export_now")
    for name in ("golden.jsonl", "examples.jsonl"):
        same(rows_of(first_wave / "export_now" / name), rows_of(first_wave / "export" / name))
    before, now = (json.loads((first_wave / name / "serving.json").read_text()) for name in ("export", "export_now"))
    same(now["operating_point"], before["operating_point"])
    before, now = (
        sorted(path.name for path in (first_wave / name).iterdir() if path.name != "__pycache__")
        for name in ("export", "export_now")
    )
    assert set(now) == {*before, "request_schema.json"}


def test_the_run_goes_on_from_its_checkpoint(first_wave: Path) -> None:
    shown = run(first_wave, "train", "config.yaml", "--resume", "train.max_steps=6")
    assert "resumed from run/checkpoints/step-000004" in shown.replace("\n", "") and "6 steps" in shown
