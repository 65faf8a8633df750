"""Sections as chunks of a good size: short neighbours are joined, long ones are cut with overlap at good borders."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate

from colbertz.corpus.folder.sections import Section, Text

# Characters of the longest chunk, without its heading. Measured, see docs/folder.md.
MAX_CHARACTERS = 1500
# Sections with fewer characters are joined with a neighbour.
SHORT = 300
# Characters that two parts of one section share, at most.
OVERLAP = 200
# The part of MAX_CHARACTERS from which on a cut at a better border is preferred to a longer chunk.
_LEAST_SHARE = 0.5


@dataclass(frozen=True)
class Piece:
    """Some lines of a section as a chunk: `start` to `end` without `end`, counted from 0.

    `head` has the lines before the body. `columns` is set for a part of one long line.
    """

    start: int
    end: int
    section: Section
    heading: str
    head: tuple[str, ...]
    columns: tuple[int, int] | None = None


def pieces(text: Text) -> Iterator[Piece]:
    """The chunks of a text, in order. Every line that is not blank is in at least one."""
    lengths = [0, *accumulate(len(line) + 1 for line in text.lines)]
    for section, names in _joined(text, lengths):
        heading = _heading(names, text.separator)
        if lengths[section.end] - lengths[section.start] <= MAX_CHARACTERS:
            start, end = _trimmed(text.lines, section.start, section.end)
            if start < end:
                yield Piece(start, end, section, heading, _first_head(section, names, text.separator))
            continue
        first = True
        for start, end, columns in _parts(text, section, lengths):
            start, end = _trimmed(text.lines, start, end)
            if start < end:
                head = _first_head(section, names, text.separator) if first else _repeated_head(section, heading)
                yield Piece(start, end, section, heading, head, columns)
                first = False


def _heading(names: list[tuple[str, ...]], separator: str) -> str:
    """The heading of a section, or of several that were joined."""
    if len(names) == 1:
        return separator.join(names[0])
    shared = _shared(names)
    if shared or separator != ".":
        return separator.join(shared or names[0])
    listed = list(dict.fromkeys(separator.join(name) for name in names if name))
    return ", ".join(listed[:3]) + (", …" if len(listed) > 3 else "")


def _shared(names: list[tuple[str, ...]]) -> tuple[str, ...]:
    """The names that all paths begin with."""
    shared = names[0]
    for name in names[1:]:
        length = next((i for i, (a, b) in enumerate(zip(shared, name)) if a != b), min(len(shared), len(name)))
        shared = shared[:length]
    return shared


def _first_head(section: Section, names: list[tuple[str, ...]], separator: str) -> tuple[str, ...]:
    """The line before a section's beginning. The heading of a document's section is in the section itself."""
    if separator == ".":
        heading = _heading(names, separator)
    else:
        heading = separator.join(section.path[:-1] if section.titled else section.path)
    return (f"# {heading}",) if heading else ()


def _repeated_head(section: Section, heading: str) -> tuple[str, ...]:
    """The lines before the second and later parts of a section."""
    head = (f"# {heading}",) if heading else ()
    return (*head, section.signature) if section.signature else head


def _trimmed(lines: list[str], start: int, end: int) -> tuple[int, int]:
    """The lines without blank ones at both ends."""
    while start < end and not lines[start].strip():
        start += 1
    while start < end and not lines[end - 1].strip():
        end -= 1
    return start, end


def _joined(text: Text, lengths: list[int]) -> Iterator[tuple[Section, list[tuple[str, ...]]]]:
    """The sections, short ones joined with their neighbours, and the paths of the sections in each."""
    current: Section | None = None
    names: list[tuple[str, ...]] = []
    for section in text.sections:
        if current is not None and _may_join(current, section, names, lengths):
            current = replace(current, end=section.end)
            names.append(section.path)
            continue
        if current is not None:
            yield current, names
        current, names = section, [section.path]
    if current is not None:
        yield current, names


def _may_join(a: Section, b: Section, names: list[tuple[str, ...]], lengths: list[int]) -> bool:
    """Whether two neighbours are one chunk: one is short, and they have the same parent or one is the other's."""
    first, second = lengths[a.end] - lengths[a.start], lengths[b.end] - lengths[b.start]
    if min(first, second) >= SHORT or first + second > MAX_CHARACTERS or a.page != b.page:
        return False
    parent = _shared(names) if len(names) > 1 else a.path
    return b.path[: len(parent)] == parent or b.path[:-1] == parent[:-1] or not b.path


def _parts(text: Text, section: Section, lengths: list[int]) -> Iterator[tuple[int, int, tuple[int, int] | None]]:
    """Lines of the parts of a long section, and columns where a line alone is too long."""
    start = section.start
    while start < section.end:
        if len(text.lines[start]) > MAX_CHARACTERS:
            for columns in _columns(text.lines[start]):
                yield start, start + 1, columns
            start += 1
            continue
        end = _cut(text, section, lengths, start)
        yield start, end, None
        start = end if end == section.end else _overlapped(text, start, end, lengths)


def _cut(text: Text, section: Section, lengths: list[int], start: int) -> int:
    """Where the part that begins at `start` ends: at the best border among those that leave a good size."""
    rest = lengths[section.end] - lengths[start]
    long_line = next(
        (
            i
            for i in range(start, section.end)
            if len(text.lines[i]) > MAX_CHARACTERS or lengths[i] - lengths[start] > MAX_CHARACTERS
        ),
        section.end,
    )
    if long_line == section.end and rest <= MAX_CHARACTERS:
        return section.end
    # Equal parts are better than a full one and a stub.
    goal = min(MAX_CHARACTERS, rest / -(-rest // MAX_CHARACTERS) + OVERLAP / 2)
    best, best_cost = start + 1, float("inf")
    for line in range(start + 1, section.end + 1):
        length = lengths[line] - lengths[start]
        if line > start + 1 and (length > MAX_CHARACTERS or line > long_line):
            break
        cost = _border_cost(text, line) if line < section.end else 0.0
        if length < _LEAST_SHARE * MAX_CHARACTERS and line != long_line:
            cost += 50
        cost += 2 * abs(length - goal) / MAX_CHARACTERS
        if cost < best_cost:
            best, best_cost = line, cost
    return best


def _border_cost(text: Text, line: int) -> float:
    """How bad a cut before a line is: 0 at a paragraph or a statement that is nested little."""
    blank = not text.lines[line - 1].strip()
    content = text.lines[line]
    if text.depths is not None:
        if not content.strip():
            return 5.0
        return text.depths.get(line, 20) - 0.5 * blank
    if not content.strip():
        return 2.0
    indentation = min(len(content) - len(content.lstrip()), 20)
    return 0.25 * indentation + (0.0 if blank else 1.5)


def _overlapped(text: Text, start: int, end: int, lengths: list[int]) -> int:
    """Where the next part begins: some lines before the cut, at a border if there is one."""
    first = end
    while first - 1 > start and lengths[end] - lengths[first - 1] <= OVERLAP:
        first -= 1
    if text.depths is None:
        return first
    return next((line for line in range(first, end) if line in text.depths), end)


def _columns(line: str) -> Iterator[tuple[int, int]]:
    """Parts of a line that is too long, cut between words where there are any."""
    start = 0
    while len(line) - start > MAX_CHARACTERS:
        end = line.rfind(" ", start + MAX_CHARACTERS // 2, start + MAX_CHARACTERS) + 1 or start + MAX_CHARACTERS
        yield start, end
        start = line.rfind(" ", start + 1, end - OVERLAP) + 1
        if start <= end - 2 * OVERLAP:
            start = end - OVERLAP
    yield start, len(line)
