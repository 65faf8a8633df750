"""Chromium without a window, through its driver."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from selenium import webdriver


def is_installed() -> bool:
    """Whether Chromium and its driver are on the path, as Debian's packages put them."""
    return shutil.which("chromium") is not None and shutil.which("chromedriver") is not None


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    """A browser that keeps what pages write to its console."""
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1200,900"):
        options.add_argument(argument)
    options.binary_location = shutil.which("chromium") or ""
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield browser
    finally:
        browser.quit()
