"""Sections as chunks of a good size: short neighbours are joined, long ones are cut with overlap at good borders."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate

from colbertz.corpus.folder.sections import Section, Text

# The size of a text is its number of characters without spaces, which make no tokens. The longest chunk has about 270
# tokens of source code or prose, so that a model with a document length of 300 reads nearly all. See docs/folder.md.
MAX_SIZE = 1000
# Sections of a smaller size are joined with a neighbour.
SHORT = 200
# What has no heading of its own and a smaller size, such as a call of main(), belongs to what it follows.
TINY = 50
# What two parts of one section share, at most.
OVERLAP = 130
# The part of MAX_SIZE from which on a cut at a better border is preferred to a longer chunk.
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


def size_of(line: str) -> int:
    """The size of a line, with one for its end."""
    return 1 + len(line) - line.count(" ")


def pieces(text: Text) -> Iterator[Piece]:
    """The chunks of a text, in order. Every line that is not blank is in at least one."""
    sizes = [0, *accumulate(map(size_of, text.lines))]
    for section, names in _joined(text, sizes):
        heading = _heading(names, text.separator)
        if sizes[section.end] - sizes[section.start] <= MAX_SIZE:
            start, end = _trimmed(text.lines, section.start, section.end)
            if start < end:
                yield Piece(start, end, section, heading, _first_head(section, heading, text.separator))
            continue
        first = True
        for start, end, columns in _parts(text, section, sizes):
            start, end = _trimmed(text.lines, start, end)
            if start < end:
                head = _first_head(section, heading, text.separator) if first else _repeated_head(section, heading)
                yield Piece(start, end, section, heading, head, columns)
                first = False


def _heading(names: list[tuple[str, ...]], separator: str) -> str:
    """The heading of a section, or of several that were joined."""
    if len(names) == 1:
        return separator.join(names[0])
    named = [name for name in names if name]
    shared = _shared(named) if named else ()
    if shared:
        return separator.join(shared)
    listed = list(dict.fromkeys(separator.join(name) for name in named))
    return ", ".join(listed[:3]) + (", …" if len(listed) > 3 else "")


def _shared(names: list[tuple[str, ...]]) -> tuple[str, ...]:
    """The names that all paths begin with."""
    shared = names[0]
    for name in names[1:]:
        length = next((i for i, (a, b) in enumerate(zip(shared, name)) if a != b), min(len(shared), len(name)))
        shared = shared[:length]
    return shared


def _first_head(section: Section, heading: str, separator: str) -> tuple[str, ...]:
    """The line before a section's beginning. A section with its own heading shows those above it only."""
    shown = separator.join(section.path[:-1]) if section.titled else heading
    return (f"# {shown}",) if shown else ()


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


def _joined(text: Text, sizes: list[int]) -> Iterator[tuple[Section, list[tuple[str, ...]]]]:
    """The sections, short ones joined with their neighbours, and the paths of the sections in each."""
    current: Section | None = None
    names: list[tuple[str, ...]] = []
    for section in text.sections:
        if current is not None and _may_join(current, section, names, sizes):
            current = replace(current, end=section.end)
            names.append(section.path)
            continue
        if current is not None:
            yield current, names
        current, names = section, [section.path]
    if current is not None:
        yield current, names


def _may_join(a: Section, b: Section, names: list[tuple[str, ...]], sizes: list[int]) -> bool:
    """Whether two neighbours are one chunk: one is short, and they have the same parent or one is the other's."""
    if a.page != b.page:
        return False
    first, second = sizes[a.end] - sizes[a.start], sizes[b.end] - sizes[b.start]
    if second < TINY and not b.signature and not b.titled:
        return True
    if min(first, second) >= SHORT or first + second > MAX_SIZE:
        return False
    last = names[-1]
    if last and not b.titled and second >= SHORT and len(b.path) > len(last) and b.path[: len(last)] == last:
        return False  # the head of a class and its first method
    parent = _shared(names) if len(names) > 1 else a.path
    return b.path[: len(parent)] == parent or b.path[:-1] == parent[:-1] or not b.path


def _parts(text: Text, section: Section, sizes: list[int]) -> Iterator[tuple[int, int, tuple[int, int] | None]]:
    """Lines of the parts of a long section, and columns where a line alone is too long."""
    start = end = section.start
    while end < section.end:
        if size_of(text.lines[end]) > MAX_SIZE:
            for columns in _columns(text.lines[end]):
                yield end, end + 1, columns
            start = end = end + 1
            continue
        end = _cut(text, section, sizes, start, end)
        yield start, end, None
        start = _overlapped(text, section, sizes, start, end) if end < section.end else end


def _cut(text: Text, section: Section, sizes: list[int], start: int, covered: int) -> int:
    """Where the part that begins at `start` ends: at the best border among those that leave a good size.

    The lines before `covered` are in the part before; at least one more line must be in this one.
    """
    last = covered + 1
    while last < section.end and sizes[last + 1] - sizes[start] <= MAX_SIZE:
        last += 1
    if last == section.end or size_of(text.lines[last]) > MAX_SIZE:
        return last
    # Equal parts are better than a full one and a stub.
    rest = sizes[section.end] - sizes[start]
    goal = min(MAX_SIZE, rest / -(-rest // MAX_SIZE) + OVERLAP / 2)

    def cost(line: int) -> float:
        size = sizes[line] - sizes[start]
        too_short = size < _LEAST_SHARE * MAX_SIZE
        return 50 * too_short + 2 * abs(size - goal) / MAX_SIZE + _border_cost(text, line)

    return min(range(covered + 1, last + 1), key=cost)


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


def _overlapped(text: Text, section: Section, sizes: list[int], start: int, end: int) -> int:
    """Where the next part begins: some lines before the cut, at a border if there is one."""
    first = end
    while (
        first - 1 > start
        and sizes[end] - sizes[first - 1] <= OVERLAP
        and sizes[end + 1] - sizes[first - 1] <= MAX_SIZE  # the next line must fit too
    ):
        first -= 1
    if text.depths is None:
        return first
    depths = text.depths
    borders = [line for line in range(first, end) if line in depths and text.lines[line].strip()]
    return min(borders, key=lambda line: depths[line], default=end)


def _columns(line: str) -> Iterator[tuple[int, int]]:
    """Parts of a line that is too long, cut between words where there are any."""
    start = 0
    while len(line) - start > MAX_SIZE:
        end = line.rfind(" ", start + MAX_SIZE // 2, start + MAX_SIZE) + 1 or start + MAX_SIZE
        yield start, end
        start = line.rfind(" ", start + 1, end - OVERLAP) + 1
        if start <= end - 2 * OVERLAP:
            start = end - OVERLAP
    yield start, len(line)
