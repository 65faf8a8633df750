"""The server's page in Chromium, driven as a person would: by keyboard and pointer."""

from collections.abc import Iterator
from typing import Any

import pytest
from serving import READER, WRITER, Server

pytest.importorskip("selenium")

from browser import chromium, is_installed
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

pytestmark = pytest.mark.skipif(not is_installed(), reason="chromium or its driver is not installed")
TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "Bread needs yeast to rise, and <b>time</b>.",
    "Glaciers move slowly, as ice does.",
    "A lazy dog sleeps all day.",
]
METADATA: list[dict[str, Any]] = [
    {"id": "fox", "title": "A fox", "kind": "animal", "year": 2001},
    {"id": "bread", "kind": "food", "year": 2011},
    {"id": "ice", "kind": "earth", "year": 2021},
    {"id": "dog", "kind": "animal", "year": 2005},
]


class Page:
    """The page in a browser."""

    def __init__(self, browser: webdriver.Chrome) -> None:
        self.browser = browser

    def until(self, condition: Any) -> Any:
        # What was on the page may be replaced between two questions.
        wait = WebDriverWait(self.browser, 60, ignored_exceptions=[StaleElementReferenceException])
        return wait.until(lambda _: condition())

    def all(self, selector: str) -> list[Any]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> Any:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def open(self, url: str) -> None:
        self.browser.get("about:blank")  # a change after # alone would not load the page again
        self.browser.get(url)

    def search(self, query: str) -> None:
        self.browser.execute_script("document.getElementById('results').replaceChildren()")
        box = self.one("#query")
        box.clear()
        box.send_keys(query, Keys.ENTER)

    def ids(self) -> list[str]:
        return [article.get_attribute("data-id") for article in self.all("#results article")]


@pytest.fixture(scope="module")
def page(server: Server) -> Iterator[Page]:
    server.add("animals", TEXTS, METADATA)
    with chromium() as browser:
        page = Page(browser)
        page.open(f"{server.url}/#index=animals")
        page.until(lambda: "4 documents" in page.one("#status").text)
        yield page
        errors = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
        assert errors == []


def test_programs_still_get_what_next_plaid_answers(server: Server) -> None:
    assert server.request("GET", "/").json()["status"] == "healthy"
    answer = server.request("GET", "/", headers={"Accept": "text/html"})
    assert (
        answer.text.startswith("<!doctype html>") and "default-src 'none'" in answer.headers["content-security-policy"]
    )


def test_searching_by_keyboard_shows_hits_with_marked_words(page: Page) -> None:
    page.search("lazy dog")
    page.until(lambda: "hits of generation" in page.one("#message").text)
    assert sorted(page.ids()) == ["bread", "dog", "fox", "ice"]
    assert {mark.text.lower() for mark in page.all(".passage mark")} == {"lazy", "dog"}
    assert "<b>time</b>" in page.one("article[data-id=bread] .passage").text, "a document is text, never markup"
    assert (
        page.one("article[data-id=fox] h3").text.startswith("1. A fox")
        or "A fox" in page.one("article[data-id=fox] h3").text
    )


def test_chips_and_bounds_filter(page: Page) -> None:
    page.search("lazy dog")
    page.until(lambda: len(page.ids()) == 4)
    [animal] = [chip for chip in page.all("fieldset[data-field=kind] .chip") if chip.text == "animal"]
    animal.click()
    page.until(lambda: sorted(page.ids()) == ["dog", "fox"])
    page.one("fieldset[data-field=year] input[data-sign='>=']").send_keys("2002", Keys.TAB)
    page.until(lambda: page.ids() == ["dog"])
    animal.click()
    page.until(lambda: sorted(page.ids()) == ["bread", "dog", "ice"])
    bound = page.one("fieldset[data-field=year] input[data-sign='>=']")
    bound.clear()
    page.one("#query").click()
    page.until(lambda: len(page.ids()) == 4)


def test_a_query_word_shows_what_it_met(page: Page) -> None:
    page.search("lazy dog")
    page.until(lambda: len(page.ids()) == 4)
    article = page.one("article[data-id=dog]")
    article.find_element(By.XPATH, "./button").send_keys(Keys.ENTER)
    words = page.until(lambda: article.find_elements(By.CSS_SELECTOR, ".query button"))
    assert [word.text for word in words] == ["lazy", "dog"]
    words[1].send_keys(Keys.SPACE)
    assert words[1].get_attribute("aria-pressed") == "true"
    assert article.find_element(By.CSS_SELECTOR, ".met").text.startswith("dog met “")
    heats = page.browser.execute_script(
        "return Object.fromEntries([...arguments[0].querySelectorAll('.document mark')]"
        ".map((mark) => [mark.textContent, Number(mark.style.getPropertyValue('--heat'))]))",
        article,
    )
    assert max(heats, key=lambda word: heats[word]) == "dog" and heats["dog"] == 1
    words[1].send_keys(Keys.SPACE)
    assert words[1].get_attribute("aria-pressed") == "false"


def test_ways_of_searching_stand_side_by_side_and_in_the_address(page: Page, server: Server) -> None:
    page.search("lazy dog")
    for mode in page.all("#modes .chip"):
        if not mode.find_element(By.TAG_NAME, "input").is_selected():
            mode.click()
    page.until(lambda: len(page.all("#results > section")) == 4)
    assert [section.get_attribute("aria-label") for section in page.all("#results > section")] == [
        "PLAID",
        "exact",
        "BM25",
        "hybrid",
    ]
    assert "maxsim" in page.one("section[aria-label=hybrid] small ~ *, section[aria-label=hybrid] h3 small").text
    address = page.browser.current_url
    page.open(address)
    page.until(lambda: len(page.all("#results > section")) == 4)
    assert page.one("#query").get_attribute("value") == "lazy dog"


def test_it_fits_a_phone_and_follows_the_colours_of_the_system(page: Page, server: Server) -> None:
    page.open(f"{server.url}/#index=animals&q=lazy+dog")
    page.until(lambda: len(page.ids()) == 4)
    colours = []
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        colours.append(page.one("body").value_of_css_property("background-color"))
    assert colours[0] != colours[1]
    page.browser.set_window_size(360, 800)
    overflow = page.browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    page.browser.set_window_size(1200, 900)
    assert overflow <= 0


def test_everything_has_a_name_for_a_screen_reader(page: Page) -> None:
    nameless = page.browser.execute_script(
        """return [...document.querySelectorAll("input, select, button, section")].filter((element) =>
             !element.closest("[hidden]") && !(element.labels?.length) && !element.getAttribute("aria-label")
             && !element.textContent.trim()).map((element) => element.outerHTML)"""
    )
    assert nameless == []
    assert page.one("#message").get_attribute("aria-live") == "polite"


def test_a_mistake_is_said(page: Page, server: Server) -> None:
    page.open(f"{server.url}/#index=animals")
    page.until(lambda: "4 documents" in page.one("#status").text)
    page.one("#modes .chip").click()
    page.search("anything")
    page.until(lambda: "one way of searching" in page.one("#message").text)


def test_a_server_with_tokens_asks_for_one(page: Page, strict: Server) -> None:
    strict.request("POST", "/indices", json={"name": "locked"}, headers={"Authorization": f"Bearer {WRITER}"})
    page.open(strict.url)
    page.until(lambda: page.one("#token").is_displayed())
    page.one("#token").send_keys(READER)
    page.one("#use-token").click()
    page.until(lambda: not page.one("#token").is_displayed())
    page.browser.get_log("browser")  # the refusal without a token is in it
