"""Photographs the server's page for the README: colbertz's own documentation, searched by the packaged model.

    python tools/draw_page.py            needs Chromium, its driver and the extra `dev`

Writes docs/images/page.png (what the words of a query met) and docs/images/page-compare.png (dark, two ways of
searching side by side).
"""

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from browser import chromium  # noqa: E402
from serving import serving  # noqa: E402

QUERY = "what happens if the process is killed while it writes?"
IMAGES = ROOT / "docs/images"


def sections() -> tuple[list[str], list[dict[str, Any]]]:
    """The sections of the documentation: texts, and the page and heading of each."""
    texts, metadata = [], []
    for page in sorted((ROOT / "docs").glob("*.md")):
        for number, part in enumerate(re.split(r"^## ", page.read_text("utf-8"), flags=re.MULTILINE)):
            heading, _, text = part.partition("\n")
            if len(text.split()) > 20:
                texts.append(" ".join(text.split())[:1200])
                metadata.append({"id": f"{page.stem}#{number}", "title": heading.lstrip("# "), "page": page.stem})
    return texts, metadata


def post(url: str, body: dict[str, Any]) -> None:
    with urlopen(Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})) as answer:
        answer.read()


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder), "--model", "colbertz/nano") as server,
        chromium() as browser,
    ):
        wait = WebDriverWait(browser, 60)
        texts, metadata = sections()
        post(f"{server.url}/indices", {"name": "documentation"})
        path = f"{server.url}/indices/documentation/update_with_encoding?wait=true"
        post(path, {"documents": texts, "metadata": metadata})
        browser.set_window_size(1000, 760)
        browser.get(server.url)
        wait.until(lambda _: "documents" in browser.find_element(By.ID, "status").text)
        browser.find_element(By.ID, "query").send_keys(QUERY, Keys.ENTER)
        wait.until(lambda _: browser.find_elements(By.TAG_NAME, "article"))
        browser.find_element(By.CSS_SELECTOR, "article > button").click()
        word = "//article//p[@class='query']/button[text()='killed']"
        wait.until(lambda _: browser.find_elements(By.XPATH, word))
        browser.find_element(By.XPATH, word).click()
        browser.save_screenshot(str(IMAGES / "page.png"))
        dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
        browser.find_element(By.XPATH, "//label[contains(., 'BM25')]").click()
        wait.until(lambda _: len(browser.find_elements(By.CSS_SELECTOR, "#results > section")) == 2)
        browser.save_screenshot(str(IMAGES / "page-compare.png"))


if __name__ == "__main__":
    main()
