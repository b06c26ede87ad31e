"""The comparison as a whole, and as Markdown, CSV and PNG."""

import csv
from pathlib import Path
from typing import Any

import pytest

from equipoise.common.errors import UserError
from equipoise.common.page.whole_page import safe_json
from equipoise.evaluation.compare.charts import draw
from equipoise.evaluation.compare.comparison import Comparison, compare
from equipoise.evaluation.compare.comparison_page import page_of
from equipoise.evaluation.compare.run_records import find_runs, read_runs
from equipoise.evaluation.compare.tables import Table, tables, write_csv, write_markdown
from equipoise.evaluation.options import Question
from tests.evaluation.compare.conftest import evaluation


@pytest.fixture(scope="module")
def comparison(runs: Path) -> Comparison:
    records, broken = read_runs(find_runs([runs]))
    return compare(records, broken, Question(baseline="pcgrad", resamples=20))


def column(table: Table, name: str) -> dict[str, tuple[str, bool]]:
    place = table.columns.index(name)
    return {row[0].text: (row[place].text, row[place].best) for row in table.rows}


def test_the_best_is_the_largest_or_the_smallest(record: Any) -> None:
    def run(name: str, auc: float, ne: float) -> Any:
        found = evaluation(auc)
        found["pointwise"]["ctr"] |= {"ne": ne, "predicted": auc}
        return record(name, found, balancing={"method": name})

    question = Question(metrics=("ctr/*", "ctcvr/auc"))
    found = tables(compare([run("a", 0.8, 0.5), run("b", 0.9, 0.6)], [], question))[0]
    assert column(found, "pCTR AUC") == {"a": ("0.8000", False), "b": ("0.9000", True)}
    assert column(found, "pCTR NE") == {"a": ("0.5000", True), "b": ("0.6000", False)}
    assert not any(best for _, best in column(found, "pCTR mean p").values())
    assert not any(best for _, best in column(found, "pCTCVR AUC").values())  # equal


def test_unfinished_broken_and_unmeasured_runs_are_told_with_their_way_out(comparison: Comparison, runs: Path) -> None:
    notes = "\n".join(comparison.notes)
    assert f"broken: {runs / 'torn' / 'config.yaml'} cannot be read as YAML" in notes
    assert f"unfinished: {runs / 'stopped'} after step 200: train with --resume" in notes
    assert f"run `equipoise evaluate {runs / 'unmeasured'} --split test`" in notes
    rows = column(tables(comparison)[0], "seeds")
    assert {name: text for name, (text, _) in rows.items()} == {
        "mgda": "2", "pcgrad": "2", "stopped": "0 of 1", "unmeasured": "0 of 1"}  # fmt: skip


def test_tables_show_differences_changes_fronts_and_costs(comparison: Comparison) -> None:
    titles = [table.title for table in tables(comparison)]
    assert titles[:3] == ["Results on test", "Settings that differ", "Change against pcgrad"]
    assert titles[3].startswith("Fronts of NDCG@10, ILD@10")
    assert tables(comparison)[1].columns == ("run", "balancing.method")
    assert "6 min" in column(tables(comparison)[0], "time")["mgda"][0]
    assert column(tables(comparison)[0], "peak memory")["mgda"][0] == "3.00 GiB"
    change = column(tables(comparison)[2], "pCTR AUC")["mgda"][0]
    assert " %) [" in change


def test_csv_has_every_metric_as_it_is(comparison: Comparison, tmp_path: Path) -> None:
    write_csv(comparison, tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    for pool in comparison.pools:
        for metric in comparison.all_metrics:
            held = pool.metrics.get(metric)
            assert rows[pool.name][metric] == ("" if held is None else repr(held.mean))
    assert rows["mgda"]["config.balancing.method"] == "mgda"
    change = comparison.changes.values["mgda"]["ctr/auc"]  # type: ignore[union-attr]
    assert change.interval is not None
    assert float(rows["mgda"]["ctr/auc change low"]) == change.interval[0]
    assert rows["pcgrad"]["ctr/auc change"] == "" and rows["mgda"]["peak_memory_bytes"] == str(float(3 * 2**30))


def test_markdown_has_one_cell_per_column_whatever_the_names(record: Any, tmp_path: Path) -> None:
    records = [record(name, evaluation(), balancing={"method": name}) for name in ("a|b", "*c*\n<i>")]
    write_markdown(compare(records, [], Question()), tmp_path / "table.md")
    text = (tmp_path / "table.md").read_text()
    assert "a\\|b" in text and "\\*c\\* \\<i>" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.replace("\\|", "").count("|") == lines[0].replace("\\|", "").count("|") for line in lines[:4])


def test_the_picture_is_drawn_and_nothing_to_draw_is_told(comparison: Comparison, record: Any, tmp_path: Path) -> None:
    draw(comparison, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="evaluate the runs first"):
        draw(compare([record("a", None)], [], Question()), tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_no_name_ends_the_script_of_the_page(record: Any) -> None:
    name = "</script><script>alert(1)</script><!--\u2028"
    page = page_of(compare([record(name, evaluation())], [], Question()))
    assert page.lower().count("</script") == 3 and "<!--" not in page.split("<body>")[1]
    assert "/*DATA*/" in safe_json("/*DATA*/")


@pytest.mark.parametrize(("question", "message"), [
    (Question(metrics=("ctr/x",)), "--metrics: no run has a metric 'ctr/x'"),
    (Question(axes=("ctr/auc", "y")), "--axes: no run has the metric 'y'"),
    (Question(by="balancing.methd"), "--by balancing.methd: no run has this setting"),
    (Question(by="seed"), "--by seed: runs that differ in it alone are one row"),
    (Question(baseline="z"), "--baseline: no run is named 'z'"),
])  # fmt: skip
def test_a_question_that_no_run_answers_is_refused(record: Any, question: Question, message: str) -> None:
    with pytest.raises(UserError, match=message):
        compare([record("a", evaluation())], [], question)
