"""The page in a real browser, opened from a file."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

from benchmarks.compare_runs import Made, write_run
from equipoise.evaluation.compare.comparison import compare
from equipoise.evaluation.compare.comparison_page import write_page
from equipoise.evaluation.compare.run_records import find_runs, read_runs
from equipoise.evaluation.compare.tables import write_csv
from equipoise.evaluation.options import Question
from tests.browser import open_browser

pytestmark = pytest.mark.slow

NAME = "</script><b>odd</b> 'name' & more"


@pytest.fixture(scope="module")
def written(runs: Path, models: list[Made], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page and the CSV of the same comparison."""
    folder = tmp_path_factory.mktemp("page")
    write_run(folder / "more" / "odd", {"name": NAME, "balancing.method": "cagrad"}, models[2], records=300)
    records, broken = read_runs(find_runs([runs, folder / "more"]))
    comparison = compare(records, broken, Question(baseline="pcgrad", resamples=20))
    write_page(comparison, folder / "page.html")
    write_csv(comparison, folder / "table.csv")
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """One browser for all tests, which tells what it logs and what it asks the network for."""
    with open_browser(tmp_path_factory.mktemp("browser"), {"browser": "ALL", "performance": "ALL"}) as found:
        yield found


@pytest.fixture
def page(browser: webdriver.Chrome, written: Path) -> webdriver.Chrome:
    """The page, freshly opened."""
    browser.get((written / "page.html").as_uri())
    return browser


def texts(page: webdriver.Chrome, selector: str) -> list[str]:
    return [node.text for node in page.find_elements(By.CSS_SELECTOR, selector)]


def dots(page: webdriver.Chrome, selector: str = "#scatter circle") -> list[tuple[float, float]]:
    script = "return [...document.querySelectorAll(arguments[0])].map((n) => [+n.dataset.x, +n.dataset.y])"
    return [tuple(pair) for pair in page.execute_script(script, selector)]


def test_its_numbers_are_those_of_the_csv(page: webdriver.Chrome, written: Path) -> None:
    with (written / "table.csv").open(newline="") as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    script = """return [...document.querySelectorAll('#results tbody tr')].map((row) => [row.cells[0].textContent,
        [...row.querySelectorAll('[data-metric]')].map((c) => [c.dataset.metric, c.dataset.value, c.textContent])])"""
    shown = dict(page.execute_script(script))
    assert set(shown) == set(rows) and NAME in shown
    assert len(shown[NAME]) == 9 and shown["stopped"] == []
    for name, cells in shown.items():
        for metric, value, text in cells:
            assert float(value) == float(rows[name][metric])
            deviation = rows[name][f"{metric} deviation"]
            number = f"{float(value):.4f}" + (f" ±{float(deviation):.4f}" if deviation else "")
            assert text.removesuffix(" ★") == number
    changed = "return [...document.querySelectorAll('#changes [data-metric]')].map((c) => [c.closest('tr').cells[0].textContent, c.dataset.metric, +c.dataset.value])"  # noqa: E501
    for name, metric, value in page.execute_script(changed):
        assert value == float(rows[name][f"{metric} change"])


def test_the_axes_choose_what_the_scatter_shows(page: webdriver.Chrome, written: Path) -> None:
    assert len(dots(page)) == 3 * 4  # evaluated configs at four operating points
    Select(page.find_element(By.ID, "axis-x")).select_by_value("ctr/auc")
    Select(page.find_element(By.ID, "axis-y")).select_by_value("ctr/ne")
    with (written / "table.csv").open(newline="") as file:
        rows = [(float(row["ctr/auc"]), float(row["ctr/ne"])) for row in csv.DictReader(file) if row["ctr/auc"]]
    assert sorted(dots(page)) == sorted(rows)
    front = [(x, y) for x, y in rows if not any(a >= x and b <= y and (a, b) != (x, y) for a, b in rows)]
    assert sorted(dots(page, "#scatter circle:not(.dominated)")) == sorted(front)
    titles = page.execute_script("return [...document.querySelectorAll('#scatter .title')].map((n) => n.textContent)")
    assert titles == ["pCTR AUC", "pCTR NE"]


def test_filters_hide_runs_everywhere(page: webdriver.Chrome) -> None:
    assert texts(page, "#count") == ["5 of 5 shown"]
    before = len(page.find_elements(By.CSS_SELECTOR, "#curves svg:first-child path.line"))
    assert before == 7  # runs that were read, seeds apart
    Select(page.find_element(By.CSS_SELECTOR, "[data-setting='balancing.method']")).select_by_value("=mgda")
    assert texts(page, "#results tbody td:first-child") == ["mgda"] and texts(page, "#count") == ["1 of 5 shown"]
    assert len(dots(page)) == 4 and len(page.find_elements(By.CSS_SELECTOR, "#parallel path.line")) == 1
    assert len(page.find_elements(By.CSS_SELECTOR, "#curves svg:first-child path.line")) == 2
    page.find_element(By.ID, "search").send_keys("nothing like it")
    assert texts(page, "#results tbody tr") == [] and dots(page) == []
    page.find_element(By.ID, "reset").click()
    assert texts(page, "#count") == ["5 of 5 shown"]
    page.find_element(By.ID, "search").send_keys("ODD cagrad")
    assert texts(page, "#results tbody td:first-child") == [NAME]


def test_curves_sorting_and_marking(page: webdriver.Chrome) -> None:
    Select(page.find_element(By.ID, "group")).select_by_value("cosines")
    names = page.execute_script("return [...document.querySelectorAll('#curves svg')].map((n) => n.dataset.curve)")
    assert set(names) >= {"ctr-cvr", "diversity-fairness"} and len(names) == 6
    head = page.find_elements(By.CSS_SELECTOR, "#results th")[2]
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", head)  # not under the bar of filters
    head.click()
    script = "return [...document.querySelectorAll('#results [data-metric=\"ctr/auc\"]')].map((n) => +n.dataset.value)"
    values = page.execute_script(script)
    assert values == sorted(values, reverse=True) and len(values) == 3
    page.find_element(By.CSS_SELECTOR, "#results tbody tr").click()
    assert len(page.find_elements(By.CSS_SELECTOR, "#parallel.marked path.on")) == 1
    assert len(page.find_elements(By.CSS_SELECTOR, "#results tr.on")) == 1


def test_notes_fronts_and_settings_are_there(page: webdriver.Chrome) -> None:
    notes = " ".join(texts(page, "#notes li"))
    assert "broken:" in notes and "unfinished:" in notes and "equipoise evaluate" in notes
    assert len(texts(page, "#fronts tbody tr")) == 3 and "reference point" in texts(page, "#frame")[0]
    assert texts(page, "#settings th")[1:] == ["balancing.method", "balancing.options"]  # the defaults of cagrad
    assert page.find_elements(By.TAG_NAME, "b") == []  # a name is text, not markup


def test_it_asks_the_network_for_nothing_and_complains_of_nothing(page: webdriver.Chrome, written: Path) -> None:
    page.get_log("browser"), page.get_log("performance")  # what came before
    page.get((written / "page.html").as_uri())
    page.find_element(By.CSS_SELECTOR, "#results tbody tr").click()
    assert page.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert asked and all(url.startswith(("file://", "data:")) for url in asked)


def test_the_dark_page_is_dark(page: webdriver.Chrome) -> None:
    def paper() -> str:
        return page.execute_script("return getComputedStyle(document.body).backgroundColor")

    light = paper()
    media = [{"name": "prefers-color-scheme", "value": "dark"}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    assert light != paper()
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
