"""Pages of hits and lines: nothing is lost between pages, whatever their size."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from colbertz.errors import UserError
from colbertz.folders.messages import FolderHit, Line
from colbertz.integrations.agent_pages import Cursor, page_of_hits, page_of_lines


def hit(number: int, length: int) -> tuple[str, FolderHit]:
    passage = (Line(number, "x" * length),)
    return f"file{number}.py", FolderHit(f"file{number}.py", number, number + 3, number, 1.0, passage=passage)


@given(st.lists(st.integers(0, 300), max_size=12), st.integers(1, 5), st.integers(40, 400))
def test_the_pages_together_have_every_hit_once(lengths: list[int], k: int, max_characters: int) -> None:
    hits = [hit(number, length) for number, length in enumerate(lengths, 1)]
    found: list[str] = []
    cursor = Cursor()
    for _ in range(len(hits) + 1):
        page = page_of_hits(hits[: cursor.offset + k + 1], cursor, k, 7, max_characters)
        found += re.findall(r"^(file\d+\.py):", page, re.MULTILINE)
        following = re.search(r"more hits: cursor (\S+)$", page, re.MULTILINE)
        shown = page[: following.start()] if following else page
        assert len(shown) <= max_characters + len("… (more: read_range)") + 2
        if following is None:
            break
        cursor = Cursor.read(following[1])
    assert found == [path for path, _ in hits]


def test_a_hit_as_an_agent_sees_it() -> None:
    found = FolderHit("a.pdf", 3, 9, 4, 1.0, "Install > Linux", "docs", 2, passage=(Line(4, "apt"), Line(5, "dnf")))
    assert page_of_hits([("a.pdf", found)], Cursor(), 5, 1, 1000) == (
        "a.pdf:3-9 (page 2) Install > Linux\n4: apt\n5: dnf"
    )


def test_a_page_says_that_files_have_changed() -> None:
    assert "files have changed since the last page" in page_of_hits([hit(1, 3)], Cursor(0, 6), 5, 7, 1000)
    assert page_of_hits([], Cursor(), 5, 7, 1000) == "no hits"
    assert page_of_hits([hit(1, 3)], Cursor(1, 7), 5, 7, 1000) == "no more hits"


@pytest.mark.parametrize("text", ["x", "1", "1.", ".1", "-1.2", "1.2.3", "1.None", "9" * 50 + ".1", "²."])
def test_what_is_no_cursor(text: str) -> None:
    with pytest.raises(UserError, match="is no cursor"):
        Cursor.read(text)


@given(st.lists(st.text(st.characters(codec="ascii", exclude_characters="\n\r"), max_size=60), min_size=1), st.data())
def test_the_pages_together_have_every_line_once(lines: list[str], data: st.DataObject) -> None:
    start = data.draw(st.integers(1, len(lines)))
    end = data.draw(st.integers(start, len(lines) + 3))
    found: dict[int, str] = {}
    position, last = start, end
    while True:
        page = page_of_lines(lines, position, last, 200).split("\n")
        following = re.fullmatch(r"more lines: start (\d+), end (\d+)", page[-1])
        for line in page:
            if numbered := re.fullmatch(r"(\d+): (.*)", line):
                found[int(numbered[1])] = numbered[2]
        if following is None:
            break
        position, last = int(following[1]), int(following[2])
    expected = {number: lines[number - 1] for number in range(start, min(end, len(lines)) + 1)}
    assert found == expected


def test_lines_that_are_not_there() -> None:
    with pytest.raises(UserError, match="the file has 2 lines; there is no line 3"):
        page_of_lines(["a", "b"], 3, 9, 100)
