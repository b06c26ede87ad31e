"""The report in a real browser, opened from a file."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

from equipoise.evaluation.run_page.run_page import write_report
from tests.browser import WIDTHS, barriers, open_browser, overflow, shown_as
from tests.evaluation.run_page.conftest import NAME, PREFIX

pytestmark = pytest.mark.slow

KEYS = "return Object.fromEntries([...document.querySelectorAll(arguments[0] + ' [data-key]')].map((n) => [n.dataset.key, [+n.dataset.value, n.textContent]]))"  # noqa: E501


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """One browser for all tests, which tells what it logs and what it asks the network for."""
    with open_browser(tmp_path_factory.mktemp("browser"), {"browser": "ALL", "performance": "ALL"}) as found:
        yield found


@pytest.fixture
def page(browser: webdriver.Chrome, whole: Path, tmp_path: Path) -> webdriver.Chrome:
    """The report of the whole run, freshly opened."""
    write_report(whole, tmp_path / "report.html")
    browser.get_log("browser"), browser.get_log("performance")  # what came before
    browser.get((tmp_path / "report.html").as_uri())
    return browser


def texts(page: webdriver.Chrome, selector: str) -> list[str]:
    return [node.text for node in page.find_elements(By.CSS_SELECTOR, selector)]


def test_it_shows_the_numbers_of_the_files(page: webdriver.Chrome, whole: Path) -> None:
    found = json.loads((whole / "evaluation_test.json").read_text())
    shown = page.execute_script(KEYS, "[data-target=ctr]")
    ours = found["pointwise"]["ctr"]
    assert shown["ours/auc"][0] == ours["auc"] and shown["ours/auc"][1].startswith(f"{ours['auc']:.4f}")
    assert shown["ours/ndcg@10"][0] == ours["ndcg@10"]
    groups = page.execute_script(KEYS, "#user-groups")
    assert groups["age/20/auc"][0] == found["user_groups"]["age"]["groups"]["20"]["auc"]
    points = page.execute_script(KEYS, "#points")
    exposure = found["ranking"][1]["exposure@10"]["groups"]
    assert points["diversity 1/group/private"][0] == exposure["private"]
    splits = page.execute_script(KEYS, "#splits")
    assert splits["train/impressions"] == [1080, "1,080"] and splits["train/click_rate"] == [0.05, "5.00 %"]
    dots = "return [...document.querySelectorAll('[data-calibration=ctr] circle')].map((n) => [+n.dataset.predicted, +n.dataset.observed, +n.dataset.rows])"  # noqa: E501
    bins = found["calibration"]["ctr"]
    assert page.execute_script(dots) == [[each["predicted"], each["observed"], each["rows"]] for each in bins]


def test_the_front_follows_its_axes(page: webdriver.Chrome) -> None:
    script = "return [...document.querySelectorAll('#scatter circle')].map((n) => [+n.dataset.x, +n.dataset.y])"
    assert sorted(page.execute_script(script)) == [[0.6, 0.6], [0.61, 0.75], [0.72, 0.7]]
    assert len(page.find_elements(By.CSS_SELECTOR, "#scatter .dominated")) == 1
    assert len(page.find_elements(By.CSS_SELECTOR, "#scatter .chosen")) == 2
    Select(page.find_element(By.ID, "front-x")).select_by_value("ndcg")
    assert sorted(page.execute_script(script))[0] == [0.6, 0.75 - 0.15]
    assert "by constraint (counts)" in texts(page, "#choices td")


def test_slates_before_and_after(page: webdriver.Chrome) -> None:
    assert len(texts(page, ".example")) == 4 and texts(page, ".example > p")[0] == PREFIX
    first = ".example:first-child [data-slate"
    select = Select(page.find_element(By.ID, "omega"))
    assert select.first_selected_option.text == "diversity 0.5 (chosen)"
    assert (
        len(texts(page, f"{first}='relevance'] tbody tr"))
        == len(texts(page, f"{first}='diversity 0.5'] tbody tr"))
        == 10
    )
    assert set(texts(page, f"{first}='relevance'] td:last-child")) == {"="}
    assert any(text.startswith("▲") for text in texts(page, f"{first}='diversity 0.5'] td:last-child"))
    select.select_by_value("fairness 1")
    assert texts(page, f"{first}='diversity 0.5']") == [] and len(texts(page, f"{first}='fairness 1']")) == 1
    assert all(text.startswith("item <") for text in texts(page, f"{first}='fairness 1'] td:nth-child(2)"))


def test_recall_is_shown_where_it_is_trained(page: webdriver.Chrome, recalling: Path, tmp_path: Path) -> None:
    assert page.find_elements(By.ID, "recall") == [] and "Recall" not in texts(page, "#contents a")
    write_report(recalling, tmp_path / "recall.html")
    page.get((tmp_path / "recall.html").as_uri())
    found = json.loads((recalling / "evaluation_test.json").read_text())["recall"]
    shown = page.execute_script(KEYS, "#recalls")
    assert len(shown) == 12 and "Recall" in texts(page, "#contents a")
    assert shown["ours/new/recall200"] == [found["new"]["ours"]["recall200"], "0.300 ★ (0.280 to 0.320)"]
    assert shown["BM25/all/recall50"][1] == "0.250 (0.230 to 0.270)"
    assert len(texts(page, "#recall-verdict li")) == 2 and page.get_log("browser") == []


def test_it_is_text_not_markup_and_asks_the_network_for_nothing(page: webdriver.Chrome) -> None:
    assert texts(page, "#name") == [NAME] and page.find_elements(By.TAG_NAME, "b") == []
    assert page.find_elements(By.CSS_SELECTOR, ".missing") == []
    assert page.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert asked and all(url.startswith(("file://", "data:")) for url in asked)


def test_a_bare_run_says_what_to_run(page: webdriver.Chrome, bare: Path, tmp_path: Path) -> None:
    write_report(bare, tmp_path / "bare.html")
    page.get((tmp_path / "bare.html").as_uri())
    commands = texts(page, "#missing .missing code")
    assert len(commands) == len(set(commands)) == 4 and f"equipoise front {bare}" in commands
    assert texts(page, "h2") == ["The run", "What is not here yet"]  # no panel without content
    assert page.find_elements(By.ID, "scatter") == [] and page.get_log("browser") == []


def test_the_verdict_comes_first_and_is_the_evaluation(page: webdriver.Chrome, whole: Path, tmp_path: Path) -> None:
    assert texts(page, "h2")[0] == "The verdict" and len(texts(page, "#sentences p")) == 3
    assert "no rival was measured" in texts(page, "#sentences p")[0]
    assert not page.find_element(By.ID, "against").is_displayed()
    folder = shutil.copytree(whole, tmp_path / "run")
    found = json.loads((folder / "evaluation_test.json").read_text())

    def row(difference: float, low: float, high: float) -> dict[str, Any]:
        ours = found["pointwise"]["ctr"]["gauc"]
        return {"ours": ours, "theirs": ours - difference, "difference": difference, "difference_interval": [low, high]}

    found["comparisons"] = {
        "ctr": {"prior": {"gauc": row(0.02, 0.01, 0.03)}, "trees": {"gauc": row(0.01, -0.01, 0.03)}}
    }
    found["against_baseline"] = {"ctr": {"auc": None, "gauc": {**row(-0.05, -0.06, -0.04), "baseline": "item rate"}}}
    (folder / "evaluation_test.json").write_text(json.dumps(found))
    write_report(folder, tmp_path / "judged.html")
    page.get((tmp_path / "judged.html").as_uri())
    ours = found["pointwise"]["ctr"]["gauc"]
    assert texts(page, "#sentences p")[0] == (
        f"Clicks are ranked with a GAUC of {ours:.3f}: better than its prior ({ours - 0.02:.3f}), no clear difference "
        f"to the trees ({ours - 0.01:.3f}), worse than item rate ({ours + 0.05:.3f})."
    )
    shown = page.execute_script(KEYS, "#against")
    assert shown["ctr/gauc"][0] == ours and shown["ctr/gauc/best simple baseline"][0] == ours + 0.05
    classes = [cell.get_attribute("class") for cell in page.find_elements(By.CSS_SELECTOR, "#against td")]
    assert [classes[place] for place in (3, 5, 7)] == ["up", "", "down"]


def test_it_is_readable_at_every_width_and_has_no_barriers(page: webdriver.Chrome) -> None:
    try:
        for width, dark in zip(WIDTHS, (False, True, False), strict=True):
            shown_as(page, width, dark)
            page.refresh()
            assert overflow(page) <= 0, width
            if width != WIDTHS[-1]:  # axe-core takes its time on so many drawn points
                assert barriers(page) == [], width
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_an_outlier_does_not_flatten_a_curve(page: webdriver.Chrome, whole: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "run")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    lines[100]["train/loss/ctr"] = 1e6
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_report(folder, tmp_path / "spike.html")
    page.get((tmp_path / "spike.html").as_uri())
    path = "[data-curve=ctr] path.line"
    heights = "const y = document.querySelector(arguments[0]).getAttribute('d').match(/ [\\d.]+/g).map(Number); return [Math.min(...y.filter((v) => v > Math.min(...y))), Math.max(...y)]"  # noqa: E501
    low, high = page.execute_script(heights, path)
    assert high - low > 40  # of 178 for the whole picture
    assert len(page.find_elements(By.CSS_SELECTOR, "[data-curve=ctr] .outside")) == 1


def test_groups_that_objectives_disagree_about(browser: webdriver.Chrome, whole: Path, tmp_path: Path) -> None:
    rows = [
        {
            "column": "category",
            "value": name,
            "first": "ctr",
            "second": "cvr",
            "candidates": 1200,
            "cosine": c,
            "z": z,
            "trunk_cosine": None,
            "trunk_z": None,
        }
        for name, c, z in (("tea", -0.3, -6.0), ("soap", 0.1, 1.0))
    ]
    held = tmp_path / "run"
    shutil.copytree(whole, held)
    (held / "conflicts.json").write_text(json.dumps(rows))
    write_report(held, tmp_path / "report.html")
    browser.get((tmp_path / "report.html").as_uri())
    assert texts(browser, "#conflict-groups tr.conflicting td")[:3] == ["category tea", "ctr – cvr", "1,200"]
    assert len(texts(browser, "#conflict-groups tr")) == 3
    assert "By category, ctr and cvr disagree about tea (cosine −0.30)." in texts(browser, "#balance-says li")
