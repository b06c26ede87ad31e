"""A real browser for tests: Debian's chromium and chromium-driver.

Without them a test is skipped; with EQUIPOISE_BROWSER=required, as in CI, it fails.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

ARGUMENTS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1400,1000",
    "--force-prefers-reduced-motion",
)  # fmt: skip


@contextmanager
def open_browser(profile: Path, logs: Mapping[str, str]) -> Iterator[webdriver.Chrome]:
    """A browser with an empty profile folder that keeps the named logs."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        sentence = "no chromium and chromedriver: apt-get install chromium chromium-driver"
        if os.environ.get("EQUIPOISE_BROWSER") == "required":
            pytest.fail(sentence)
        pytest.skip(sentence)
    options = Options()
    options.binary_location = chromium
    for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", dict(logs))
    browser = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield browser
    finally:
        browser.quit()


WIDTHS = (390, 768, 1400)
"""CSS pixels: a telephone, a tablet, a desk."""


def shown_as(browser: webdriver.Chrome, width: int, dark: bool = False) -> None:
    """Let the browser show pages in this width, in light or dark."""
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    still = {"name": "prefers-reduced-motion", "value": "reduce"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme, still]})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def barriers(browser: webdriver.Chrome) -> list[str]:
    """What axe-core finds serious or critical on the page that is open, as rule and place."""
    from axe_core_python.selenium import Axe

    found: dict[str, Any] = Axe().run(browser, options={"resultTypes": ["violations"]})
    grave = [each for each in found["violations"] if each["impact"] in ("serious", "critical")]
    return [f"{each['id']}: {node['target']} {node['html'][:120]}" for each in grave for node in each["nodes"]]


def overflow(browser: webdriver.Chrome) -> int:
    """CSS pixels by which the page is wider than its window."""
    return browser.execute_script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
