"""A real browser for tests: Debian's chromium and chromium-driver.

Without them a test is skipped; with EQUIPOISE_BROWSER=required, as in CI, it fails.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

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
