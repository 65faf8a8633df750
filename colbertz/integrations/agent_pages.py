"""Answers as pages of text for agents: few characters, and a cursor where there is more."""

from collections.abc import Sequence
from dataclasses import dataclass

from colbertz.errors import UserError
from colbertz.folders.messages import FolderHit
from colbertz.text.counted import counted


@dataclass(frozen=True)
class Cursor:
    """Where the next page begins: `offset` hits are known, in an index of this generation."""

    offset: int = 0
    generation: int | None = None

    def __str__(self) -> str:
        return f"{self.offset}.{self.generation}"

    @classmethod
    def read(cls, text: str) -> "Cursor":
        """The cursor that a page ended with; the beginning for "".

        Raises:
            UserError: if it is none.
        """
        if not text:
            return cls()
        offset, _, generation = text.partition(".")
        if not (offset.isdecimal() and generation.isdecimal() and len(text) < 40):
            raise UserError(f"{text[:40]!r} is no cursor; give the one that the last page ended with")
        return cls(int(offset), int(generation))


def page_of_hits(
    hits: Sequence[tuple[str, FolderHit]], cursor: Cursor, k: int, generation: int, max_characters: int
) -> str:
    """Hits from a cursor on, as many as fit, and the next cursor if some did not.

    Args:
        hits: paths as the agent is to see them, and hits: all up to the end of the page, and one more if there is one.
        cursor: where the page begins.
        k: hits of the page at most.
        generation: of the index that the hits are of.
        max_characters: of the hits together. The first one is shortened if it alone has more.
    """
    blocks: list[str] = []
    left = max_characters
    for path, hit in hits[cursor.offset : cursor.offset + k]:
        block = _block(path, hit)
        if blocks and len(block) + 2 > left:
            break
        blocks.append(block if len(block) <= left else f"{block[:left]}… (more: read_range)")
        left -= len(block) + 2
    shown = cursor.offset + len(blocks)
    if not blocks:
        blocks.append("no more hits" if cursor.offset else "no hits")
    if shown < len(hits):
        blocks.append(f"more hits: cursor {Cursor(shown, generation)}")
    if cursor.generation not in (None, generation):
        blocks.append("files have changed since the last page: hits may have moved between pages")
    return "\n\n".join(blocks)


def _block(path: str, hit: FolderHit) -> str:
    """A hit: path, lines and heading, then the passage with the numbers of its lines."""
    page = f" (page {hit.page})" if hit.page is not None else ""
    heading = f" {hit.heading}" if hit.heading else ""
    lines = [f"{line.number}: {line.text}" for line in hit.passage]
    return "\n".join([f"{path}:{hit.start}-{hit.end}{page}{heading}", *lines])


def page_of_lines(lines: Sequence[str], start: int, end: int, max_characters: int) -> str:
    """The lines `start` to `end` (1-based, inclusive), as many as fit, and where to go on if some did not.

    Raises:
        UserError: if the file has no line `start`.
    """
    if not 1 <= start <= len(lines):
        raise UserError(f"the file has {counted(len(lines), 'line')}; there is no line {start}")
    last = min(end, len(lines))
    shown: list[str] = []
    left = max_characters
    for number in range(start, last + 1):
        line = f"{number}: {lines[number - 1]}"
        if shown and len(line) + 1 > left:
            break
        shown.append(line if len(line) <= left else f"{line[:left]}… (the line has {len(line):,} characters)")
        left -= len(line) + 1
    next_line = start + len(shown)
    if next_line <= last:
        shown.append(f"more lines: start {next_line}, end {last}")
    elif last < len(lines):
        shown.append(f"(the file has {counted(len(lines), 'line')})")
    return "\n".join(shown)
