"""The page in a real browser."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from tests.browser import WIDTHS, barriers, open_browser, overflow, shown_as

pytestmark = pytest.mark.slow

NUMBERS = ("ctr", "cvr", "relevance", "diversity", "fairness", "utility")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """One browser for all tests."""
    with open_browser(tmp_path_factory.mktemp("browser"), {"browser": "ALL"}) as found:
        yield found


class Page:
    """The page of a server, as someone reads it."""

    def __init__(self, browser: webdriver.Chrome, live: Any) -> None:
        self.browser, self.live = browser, live
        browser.get(f"http://{live.host}:{live.port}/")
        self.settle(0)

    @property
    def answers(self) -> int:
        """How many answers it has shown."""
        return int(self.browser.find_element(By.ID, "rows").get_attribute("data-answer") or 0)

    def settle(self, before: int) -> None:
        """Wait until it shows an answer after the first `before` ones, and is waiting for none."""
        wait = WebDriverWait(self.browser, 20)
        wait.until(lambda _: self.answers > before)
        wait.until(lambda _: not self.browser.find_element(By.ID, "rows").get_attribute("class"))

    def doing(self, action: Callable[[], object]) -> None:
        """Do something that ranks anew, and wait for it."""
        before = self.answers
        action()
        self.settle(before)

    def slide(self, name: str, value: float) -> None:
        """Move a slider."""
        script = (
            "const s = document.getElementById(arguments[0]); s.value = arguments[1];"
            "s.dispatchEvent(new Event('input', {bubbles: true}))"
        )
        self.doing(lambda: self.browser.execute_script(script, f"omega-{name}", value))

    @property
    def rows(self) -> list[WebElement]:
        """The rows of the slate."""
        return self.browser.find_elements(By.CSS_SELECTOR, "#rows tr")

    @property
    def order(self) -> list[int]:
        """Given places of the candidates, from the top."""
        return [int(row.get_attribute("data-position") or -1) for row in self.rows]

    def shown(self, row: WebElement) -> dict[str, str]:
        """The numbers of a row as they are written."""
        return {name: row.find_element(By.CSS_SELECTOR, f"[data-field={name}]").text for name in NUMBERS}

    def text(self, name: str) -> str:
        """What an element says."""
        return self.browser.find_element(By.ID, name).text


def written(candidate: dict[str, Any]) -> dict[str, str]:
    """The numbers of a served candidate as the page has to write them."""

    def percent(share: float) -> str:
        return f"{100 * share:.{2 if share < 0.0995 else 1}f} %"

    found = {name: percent(share) for name, share in candidate["probabilities"].items()}
    found |= {name: f"{delta:+.3f}" for name, delta in candidate["deltas"].items()}
    found |= {name: f"{candidate[name]:.3f}" for name in ("relevance", "utility")}
    return {name: text.replace("-", "−") for name, text in found.items()}


@pytest.fixture
def page(browser: webdriver.Chrome, start_server: Any) -> Page:
    """The page of a server with the stand-in."""
    return Page(browser, start_server())


def served(page: Page, number: int, **omega: float) -> list[dict[str, Any]]:
    """What /rank gives for an example."""
    body = page.live.client.get("/examples").json()["examples"][number]["request"] | {"omega": omega}
    return page.live.client.post("/rank", json=body).json()["candidates"]


def test_sliders_change_the_order_to_the_served_one(page: Page) -> None:
    assert page.text("value-diversity") == "0.50"  # the operating point
    before = page.order
    assert before == [each["position"] for each in served(page, 0, diversity=0.5, fairness=0.0)]
    page.slide("diversity", 4.0)
    assert page.text("value-diversity") == "4.00"
    assert page.order != before
    assert page.order == [each["position"] for each in served(page, 0, diversity=4.0, fairness=0.0)]
    page.slide("fairness", 2.0)
    assert page.order == [each["position"] for each in served(page, 0, diversity=4.0, fairness=2.0)]
    page.doing(page.browser.find_element(By.ID, "pure").click)
    assert page.order == [each["position"] for each in served(page, 0, diversity=0.0, fairness=0.0)]
    assert "0 against pure relevance" in page.text("facts")


def test_the_keyboard_moves_a_slider(page: Page) -> None:
    slider = page.browser.find_element(By.ID, "omega-diversity")
    page.doing(lambda: slider.send_keys(Keys.END))
    assert page.text("value-diversity") == "5.00"
    assert page.order == [each["position"] for each in served(page, 0, diversity=5.0, fairness=0.0)]


def test_the_numbers_are_the_served_ones(page: Page) -> None:
    page.slide("diversity", 1.5)
    candidates = served(page, 0, diversity=1.5, fairness=0.0)
    assert len(page.rows) == 12
    for row, candidate in zip(page.rows, candidates, strict=True):
        assert page.shown(row) == written(candidate)
        assert f"item number {candidate['position']}" in row.text
        assert f"seen {candidate['position']}" in row.text


def test_arrows_tell_the_way_from_pure_relevance(page: Page) -> None:
    page.slide("diversity", 3.0)
    pure = [each["position"] for each in served(page, 0, diversity=0.0, fairness=0.0)]
    moved = 0
    for rank, row in enumerate(page.rows):
        change = pure.index(page.order[rank]) - rank
        arrow = row.find_element(By.CSS_SELECTOR, ".move").text
        assert arrow == (f"{'▲' if change > 0 else '▼'} {abs(change)}" if change else "")
        moved += change != 0
    assert moved > 0
    assert f"{moved} against pure relevance" in page.text("facts")


def test_what_was_clicked_is_marked(page: Page) -> None:
    page.doing(lambda: Select(page.browser.find_element(By.ID, "shopper")).select_by_visible_text("shopper 2"))
    marked = [row.get_attribute("data-position") for row in page.rows if "clicked" in row.text]
    assert marked == ["2"]
    assert page.order == [each["position"] for each in served(page, 2, diversity=0.5, fairness=0.0)]


def test_another_shopper_is_typed_and_then_cached(page: Page) -> None:
    text = page.browser.find_element(By.ID, "prefix")
    page.doing(lambda: text.send_keys(", redeems <b>everything</b>"))
    assert page.text("cached") == "shopper encoded"
    page.slide("fairness", 1.0)
    assert page.text("cached") == "shopper cached"
    assert "ms" in page.text("status")
    body = page.live.client.get("/examples").json()["examples"][0]["request"]
    body |= {"prefix": "age 30, redeems <b>everything</b>", "omega": {"diversity": 0.5, "fairness": 1.0}}
    answer = page.live.client.post("/rank", json=body).json()
    assert page.order == [each["position"] for each in answer["candidates"]]


def test_why_shows_what_explain_serves(page: Page) -> None:
    row = page.rows[2]
    position = int(row.get_attribute("data-position") or -1)
    row.find_element(By.CSS_SELECTOR, "button.why").click()
    dialog = page.browser.find_element(By.ID, "why")
    WebDriverWait(page.browser, 20).until(lambda _: dialog.get_attribute("open"))
    body = page.live.client.get("/examples").json()["examples"][0]["request"]
    body |= {"omega": {"diversity": 0.5, "fairness": 0.0}, "explain": [position]}
    found = page.live.client.post("/explain", json=body).json()["candidates"][0]
    assert [each.text for each in dialog.find_elements(By.TAG_NAME, "p")] == found["sentences"]
    parts = sorted(found["contributions"], key=lambda part: -abs(part["utility"]))
    texts = [f"{part['utility']:+.3f}".replace("-", "−") for part in parts]
    rows = dialog.find_elements(By.CSS_SELECTOR, "#parts tr")
    assert [each.find_elements(By.TAG_NAME, "td")[2].text for each in rows] == texts
    assert len(rows) == len(parts) == 2
    dialog.find_element(By.TAG_NAME, "button").click()
    assert not dialog.is_displayed()


def test_why_opens_at_its_top_and_does_not_call_log_terms_evidence(page: Page) -> None:
    page.browser.set_window_size(1000, 320)
    page.rows[-1].find_element(By.CSS_SELECTOR, "button.why").click()
    dialog = page.browser.find_element(By.ID, "why")
    WebDriverWait(page.browser, 20).until(lambda _: dialog.get_attribute("open"))
    assert page.browser.execute_script(
        "const d = arguments[0]; return [d.scrollHeight > d.clientHeight, d.scrollTop]", dialog
    ) == [True, 0]
    classes = {
        row.find_elements(By.TAG_NAME, "td")[0].text: row.find_elements(By.TAG_NAME, "td")[1].get_attribute("class")
        for row in dialog.find_elements(By.CSS_SELECTOR, "#terms tr")
    }
    assert classes["log pCTR"] == classes["log pCVR"] == "" and classes["ω · δ diversity"] in ("up", "down")
    dialog.find_element(By.TAG_NAME, "button").click()
    page.browser.set_window_size(1400, 1000)


def test_something_moves_at_first_sight(browser: webdriver.Chrome, start_server: Any, make_stand_in: Any) -> None:
    assert "\n0 against" not in Page(browser, start_server()).text("facts")
    stand_in = make_stand_in()
    stand_in.operating_point["diversity"] = 0.0
    page = Page(browser, start_server(stand_in))
    assert page.text("value-diversity") == "1.25" and "shown is ω diversity at 1.25" in page.text("balance-about")
    assert "\n0 against" not in page.text("facts")
    page.doing(page.browser.find_element(By.ID, "chosen").click)
    assert page.text("value-diversity") == "0.00" and "\n0 against" in page.text("facts")


def test_every_column_explains_itself_to_pointer_finger_and_keyboard(page: Page) -> None:
    heads = page.browser.find_elements(By.CSS_SELECTOR, "#head th")
    names = [head.text.replace("\n", " ") for head in heads]
    assert names == ["#", "±", "Item", "Utility (log)", "pCTR (%)", "pCVR (%)", "Relevance (log)",
                     "δ diversity (log)", "δ fairness (log)"]  # fmt: skip
    explained = page.browser.find_elements(By.CSS_SELECTOR, "#head .term, #facts .term, .slider .term")
    assert len(explained) == len(names) - 1 + 4 + 2
    tip = page.browser.find_element(By.ID, "tip")
    for each in explained:
        each.click()
        said = page.browser.find_element(By.ID, each.get_attribute("aria-describedby") or "")
        assert tip.is_displayed() and tip.text == said.get_attribute("textContent") and len(tip.text) > 25
    page.browser.find_element(By.TAG_NAME, "body").send_keys(Keys.ESCAPE)
    assert not tip.is_displayed()
    ActionChains(page.browser).move_to_element(explained[0]).perform()
    assert tip.is_displayed()
    page.browser.execute_script("document.activeElement.blur()")
    for _ in range(40):
        ActionChains(page.browser).send_keys(Keys.TAB).perform()
        if page.browser.switch_to.active_element.text.startswith("pCVR"):
            break
    assert "conversion given a click" in tip.text


@pytest.mark.parametrize("dark", [False, True])
def test_the_list_is_readable_at_every_width_and_has_no_barriers(page: Page, dark: bool) -> None:
    box = "const b = arguments[0].getBoundingClientRect(); return [b.left, b.right, b.width]"
    try:
        for width in WIDTHS:
            shown_as(page.browser, width, dark)
            assert overflow(page.browser) <= 0
            for name in NUMBERS:
                cell = page.rows[0].find_element(By.CSS_SELECTOR, f"[data-field={name}]")
                left, right, wide = page.browser.execute_script(box, cell)
                assert left >= 0 and right <= width and wide > 30, (name, width)
            assert barriers(page.browser) == []
        page.rows[0].find_element(By.CSS_SELECTOR, "button.why").click()
        WebDriverWait(page.browser, 20).until(lambda _: page.browser.find_element(By.ID, "why").is_displayed())
        assert barriers(page.browser) == []
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_interface_is_described_without_a_network(browser: webdriver.Chrome, start_server: Any) -> None:
    live = start_server(token="s3cret")
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get(f"http://{live.host}:{live.port}/docs")
    field = browser.find_element(By.ID, "token")
    wait = WebDriverWait(browser, 20)
    wait.until(lambda _: field.is_displayed())
    browser.get_log("browser")  # the refusal without a token
    field.send_keys("s3cret", Keys.ENTER)
    wait.until(lambda _: len(browser.find_elements(By.CSS_SELECTOR, "#swagger .opblock")) > 6)
    assert "/rank" in browser.find_element(By.ID, "swagger").text
    assert browser.get_log("browser") == [] and barriers(browser) == []
    names = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert all(name.startswith((f"http://{live.host}:{live.port}/", "data:")) for name in names)
    browser.execute_script("sessionStorage.clear()")


def test_an_error_is_shown_and_goes_away(page: Page) -> None:
    limits = page.live.recommender.limits
    page.live.recommender.limits = type(limits)(candidates=1)
    slider = page.browser.find_element(By.ID, "omega-diversity")
    slider.send_keys(Keys.HOME)
    WebDriverWait(page.browser, 10).until(lambda _: "more than the 1" in page.text("error"))
    page.live.recommender.limits = limits
    page.doing(lambda: slider.send_keys(Keys.END))
    assert page.text("error") == ""


def test_a_token_is_asked_for(browser: webdriver.Chrome, start_server: Any) -> None:
    live = start_server(token="s3cret")
    browser.get(f"http://{live.host}:{live.port}/")
    field = browser.find_element(By.ID, "token")
    wait = WebDriverWait(browser, 10)
    wait.until(lambda _: field.is_displayed())
    field.send_keys("wrong", Keys.ENTER)
    wait.until(lambda _: field.is_displayed() and field.get_attribute("value") == "")
    field.send_keys("s3cret", Keys.ENTER)
    wait.until(lambda _: len(browser.find_elements(By.CSS_SELECTOR, "#rows tr")) == 12)


def test_nothing_is_loaded_from_elsewhere_and_nothing_complains(page: Page) -> None:
    names = page.browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert names
    assert all(name.startswith((f"http://{page.live.host}:{page.live.port}/", "data:")) for name in names)
    page.slide("diversity", 2.0)
    loud = [entry for entry in page.browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert not [entry for entry in loud if f":{page.live.port}/" in entry["message"]]


def test_a_real_export_is_served_and_shown(
    browser: webdriver.Chrome, start_server: Any, tiny_export: Any, tmp_path: Path
) -> None:
    from equipoise.serving.recommender import Recommender

    live = start_server(Recommender.load(tiny_export("bert").folder))
    page = Page(browser, live)
    page.slide("diversity", 3.0)
    page.slide("fairness", 2.5)
    number = int(Select(browser.find_element(By.ID, "shopper")).first_selected_option.get_attribute("value") or 0)
    example = live.client.get("/examples").json()["examples"][number]["request"]
    own = Recommender.load(tiny_export("bert").folder, cache_mb=0)
    omega = {"diversity": 3.0, "fairness": 2.5}
    ranking = own.rank(example["prefix"], example["candidates"], omega=omega)
    answer = live.client.post("/rank", json=example | {"omega": omega}).json()["candidates"]
    expected = [candidate.to_json() for candidate in ranking.candidates]
    assert page.order == [candidate["position"] for candidate in answer] == [each["position"] for each in expected]
    for row, candidate, mine in zip(page.rows, answer, expected, strict=True):
        assert page.shown(row) == written(candidate)
        assert candidate["utility"] == pytest.approx(mine["utility"], abs=1e-5)
        assert candidate["probabilities"] == pytest.approx(mine["probabilities"], abs=1e-6)
        assert candidate["deltas"] == pytest.approx(mine["deltas"], abs=1e-5)
