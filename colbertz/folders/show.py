"""The answer to a search of a folder, for people in a terminal and for programs as JSON lines.

The habits are ripgrep's: colours and links on a terminal only, lines as they are in a pipe, wrapped between words on a
terminal. Control characters of files are shown as escapes, see `colbertz.text.printable`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from colbertz.folders.messages import Answer, FolderHit, Line, QueryHits
from colbertz.text.printable import printable

# Parameters of the terminal's escape sequences, by what they mark; those of ripgrep.
_STYLES = {"path": "35", "line": "32", "heading": "1", "match": "1;31", "dim": "2", "query": "1;36"}
# Rows of the terminal that one long line may take.
_MOST_ROWS = 3
# Columns before the text of a line: its number, a mark, and a blank.
_INDENT = 8
# Addresses that terminals open on a click, by name.
LINKS = {
    "none": "",
    "file": "file://{path}",
    "vscode": "vscode://file{path}:{line}",
    "cursor": "cursor://file{path}:{line}",
    "idea": "idea://open?file={path}&line={line}",
}


@dataclass(frozen=True)
class Style:
    """How hits are printed.

    Attributes:
        color: whether there are escape sequences.
        width: columns of the terminal; None for lines as they are.
        links: a name of `LINKS`.
        content: whether the whole chunk is shown in place of the passage.
        before, after: lines of context around the passage.
    """

    color: bool = False
    width: int | None = None
    links: str = "none"
    content: bool = False
    before: int = 0
    after: int = 0

    def paint(self, text: str, style: str) -> str:
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self.color else text


def format_result(result: QueryHits, root: Path, here: Path, style: Style, context: Mapping[str, Sequence[str]]) -> str:
    """The hits of one query: the files in the order of their best hits, and the hits of each in one group.

    Args:
        result: what was found.
        root: the folder.
        here: paths are shown relative to it if they are below it.
        style: how.
        context: the lines of the files of which `before` and `after` show some, by path.
    """
    first: dict[str, int] = {}
    for hit in result.hits:
        first.setdefault(hit.path, len(first))
    hits = sorted(result.hits, key=lambda hit: first[hit.path])
    groups = []
    for path, of_file in groupby(hits, key=lambda hit: hit.path):
        parts = [_format_hit(hit, root, here, style, context.get(path, ())) for hit in of_file]
        if more := result.more_in_file.get(path):
            parts.append(style.paint(f"  {more} more in this file (--per-file 0 shows all)", "dim"))
        groups.append("\n".join(parts))
    return "\n\n".join(groups)


def json_lines(answer: Answer) -> Iterator[dict[str, Any]]:
    """One object for each hit, with "type": "hit", and one for each query with "type": "end"."""
    for result in answer.results:
        for hit in result.hits:
            fields = {key: value for key, value in asdict(hit).items() if value is not None}
            yield {"type": "hit", "query": result.query, "generation": answer.generation, **fields}
        yield {
            "type": "end",
            "query": result.query,
            "root": answer.root,
            "hits": len(result.hits),
            "more_in_file": result.more_in_file,
            "generation": answer.generation,
            "pending": answer.pending,
            "note": answer.note,
        }


def shown_path(path: Path, here: Path) -> str:
    """A path as a person would type it in the directory `here`."""
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _format_hit(hit: FolderHit, root: Path, here: Path, style: Style, lines: Sequence[str]) -> str:
    path = root / hit.path
    name = style.paint(printable(shown_path(path, here)), "path")
    place = _link(f"{name}:{style.paint(str(hit.line), 'line')}", path, hit.line, style)
    page = style.paint(f"  page {hit.page}", "dim") if hit.page is not None else ""
    heading = f"  {style.paint(printable(hit.heading), 'heading')}" if hit.heading else ""
    return "\n".join([f"{place}{page}{heading}", *_rows(_shown_lines(hit, style, lines), style)])


def _shown_lines(hit: FolderHit, style: Style, lines: Sequence[str]) -> list[tuple[Line, bool]]:
    """The lines to show of a hit, and whether each belongs to the hit and not to its context."""
    shown = [(line, True) for line in (_content(hit) if style.content else hit.passage)]
    if not shown or not lines:
        return shown
    first, last = shown[0][0].number, shown[-1][0].number
    before = range(max(1, first - style.before), first)
    after = range(last + 1, min(last + style.after, len(lines)) + 1)
    return [
        *((Line(number, lines[number - 1]), False) for number in before if number <= len(lines)),
        *shown,
        *((Line(number, lines[number - 1]), False) for number in after),
    ]


def _content(hit: FolderHit) -> list[Line]:
    """All lines of the chunk, with the marks of the passage."""
    marks = {line.number: line.marks for line in hit.passage}
    lines = enumerate((hit.text or "").split("\n"), hit.start)
    return [Line(number, text, marks.get(number, ())) for number, text in lines]


def _rows(lines: Sequence[tuple[Line, bool]], style: Style) -> Iterator[str]:
    for line, inside in lines:
        number = f"{line.number:>{_INDENT - 2}}{':' if inside else '-'} "
        text = line.text.expandtabs(4)
        marks = line.marks if text == line.text else ()
        spans = list(_wrapped(text, style.width - _INDENT)) if style.width is not None else [(0, len(text))]
        cut = " …" if len(spans) > _MOST_ROWS else ""
        for row, (start, end) in enumerate(spans[:_MOST_ROWS]):
            part = _marked(text, start, end, marks, style)
            ending = cut if row == _MOST_ROWS - 1 else ""
            yield (style.paint(number, "line") if row == 0 else " " * _INDENT) + part + ending


def _wrapped(text: str, width: int) -> Iterator[tuple[int, int]]:
    """The parts of a line that fit into a width, broken at blanks only; a longer word is a row of its own."""
    width = max(width, 20)
    start = 0
    while len(text) - start > width:
        indent = len(text) - len(text[start:].lstrip()) if start == 0 else start
        end = text.rfind(" ", max(indent, start) + 1, start + width + 1)
        if end < 0:
            end = text.find(" ", start + width)
        if end < 0:
            break
        yield start, end
        start = end + 1
    yield start, len(text)


def _marked(text: str, start: int, end: int, marks: Sequence[tuple[int, int]], style: Style) -> str:
    """A part of a line with the words of the query painted."""
    parts, done = [], start
    for first, last in marks:
        if start <= first and last <= end:
            parts += [printable(text[done:first]), style.paint(printable(text[first:last]), "match")]
            done = last
    return "".join([*parts, printable(text[done:end])])


def _link(text: str, path: Path, line: int, style: Style) -> str:
    """The text as a link that terminals open (OSC 8)."""
    if not style.color or style.links == "none":
        return text
    address = LINKS[style.links].format(path=quote(str(path), errors="surrogateescape"), line=line)
    return f"\x1b]8;;{address}\x1b\\{text}\x1b]8;;\x1b\\"
