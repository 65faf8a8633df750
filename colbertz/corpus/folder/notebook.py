"""Jupyter notebooks by cells: the sources of the cells, without their outputs, under the headings of the text."""

import json
from itertools import pairwise

from colbertz.corpus.folder.markup import headed, markdown
from colbertz.corpus.folder.sections import Section, Text


def notebook(source: str) -> Text | None:
    """The cells of a notebook, a blank line between two; None if it is no notebook."""
    try:
        cells = json.loads(source)["cells"]
        parts = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    lines: list[str] = []
    headings: list[tuple[int, int, str]] = []
    begins: list[int] = []
    for cell_type, text in parts:
        begins.append(len(lines))
        cell = text.split("\n")
        if cell_type == "markdown":
            for section in markdown(cell):
                if section.titled:
                    level = len(cell[section.start]) - len(cell[section.start].lstrip("#")) or 1
                    headings.append((len(lines) + section.start, level, section.path[-1]))
        lines += [*cell, ""]
    return Text(lines, _split(headed(headings, len(lines)), begins), " > ")


def _split(sections: list[Section], begins: list[int]) -> list[Section]:
    """The sections, divided where a cell begins."""
    divided: list[Section] = []
    for section in sections:
        borders = [section.start, *(line for line in begins if section.start < line < section.end), section.end]
        for start, end in pairwise(borders):
            divided.append(Section(start, end, section.path, titled=section.titled and start == section.start))
    return divided
