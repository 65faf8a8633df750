"""Markdown, reStructuredText and plain text as sections under headings."""

import re
from collections.abc import Iterable, Iterator

from colbertz.corpus.folder.sections import Section

_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))??(?:[ \t]+#+)?[ \t]*$")
_SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_LIST_OR_QUOTE = re.compile(r"\s*([-*+>|]|\d+[.)])(\s|$)")
_RST_ADORNMENT = re.compile(r"([!-/:-@\[-`{-~])\1{2,}\s*$")
# Marks of emphasis, code and links in a heading.
_MARKS = re.compile(r"`+|\*\*|__|!?\[([^\]]*)\]\([^)]*\)|\{#[^}]*\}|<[^>]+>")
# Characters of a heading that a section's path keeps.
_MAX_HEADING = 120


def headed(headings: Iterable[tuple[int, int, str]], num_lines: int) -> list[Section]:
    """Sections of the lines from each heading to the next.

    Args:
        headings: the first line, the level (smaller is higher), and the text of each heading, in order.
        num_lines: of the whole text.
    """
    sections: list[Section] = []
    stack: list[tuple[int, str]] = []
    begin, titled = 0, False
    for line, level, heading in headings:
        if line > begin or titled:
            sections.append(Section(begin, line, tuple(name for _, name in stack), titled=titled))
        stack = [outer for outer in stack if outer[0] < level]
        stack.append((level, plain_heading(heading)))
        begin, titled = line, True
    sections.append(Section(begin, num_lines, tuple(name for _, name in stack), titled=titled))
    return [section for section in sections if section.start < section.end]


def plain_heading(heading: str) -> str:
    """A heading without markup, on one line."""
    return " ".join(_MARKS.sub(r"\1", heading).split())[:_MAX_HEADING]


def markdown(lines: list[str]) -> list[Section]:
    """Sections of a Markdown text (CommonMark's headings; front matter and code are none)."""
    return headed(_markdown_headings(lines), len(lines))


def _markdown_headings(lines: list[str]) -> Iterator[tuple[int, int, str]]:
    fence = ""
    paragraph: int | None = None  # the first line of the paragraph that the line before belongs to
    for number in range(_front_matter(lines), len(lines)):
        line = lines[number]
        opening = _FENCE.match(line)
        if fence:
            if opening and opening[1].startswith(fence) and not line[opening.end() :].strip():
                fence = ""
            continue
        heading, underline = _ATX.match(line), _SETEXT.match(line)
        if opening and not (opening[1][0] == "`" and "`" in line[opening.end() :]):
            fence, paragraph = opening[1], None
        elif heading:
            yield number, len(heading[1]), heading[2] or ""
            paragraph = None
        elif underline and paragraph is not None:
            yield paragraph, 1 if underline[1][0] == "=" else 2, " ".join(lines[paragraph:number])
            paragraph = None
        elif not line.strip() or _LIST_OR_QUOTE.match(line) or (underline and underline[1][:3] == "---"):
            paragraph = None
        elif paragraph is None and not line.startswith(("    ", "\t")):
            paragraph = number


def _front_matter(lines: list[str]) -> int:
    """The number of lines of YAML or TOML before the text."""
    if lines and lines[0].rstrip() in ("---", "+++"):
        for number in range(1, min(len(lines), 200)):
            if lines[number].rstrip() == lines[0].rstrip():
                return number + 1
    return 0


def rst(lines: list[str]) -> list[Section]:
    """Sections of a reStructuredText. The levels are in the order in which kinds of underlines first occur."""
    return headed(_rst_headings(lines), len(lines))


def _rst_headings(lines: list[str]) -> Iterator[tuple[int, int, str]]:
    levels: dict[str, int] = {}
    for number in range(1, len(lines)):
        title, under = lines[number - 1], lines[number]
        adornment = _RST_ADORNMENT.match(under)
        if not adornment or not title.strip() or _RST_ADORNMENT.match(title):
            continue
        over = lines[number - 2] if number > 1 else ""
        has_overline = _RST_ADORNMENT.match(over) is not None and over.rstrip() == under.rstrip()
        if not has_overline and (title[0].isspace() or over.strip() or len(under.rstrip()) < 0.8 * len(title.rstrip())):
            continue
        style = under[0] + ("over" if has_overline else "")
        level = levels.setdefault(style, len(levels))
        yield number - 2 if has_overline else number - 1, level, title.strip()


def paragraphs(lines: list[str]) -> list[Section]:
    """A section for each paragraph of a plain text; the joining of short ones makes chunks of them."""
    sections: list[Section] = []
    start = 0
    for number in range(1, len(lines)):
        if lines[number].strip() and not lines[number - 1].strip():
            sections.append(Section(start, number))
            start = number
    return [*sections, Section(start, len(lines))] if lines else []
