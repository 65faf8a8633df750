"""A run of lines with its heading: what every format is divided into before it is cut into chunks."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """Lines `start` to `end` of a text, without `end`, counted from 0.

    Attributes:
        path: the names above and of this section: headings of a document, or classes and a function.
        signature: of a function or class, on one line; "" for none.
        titled: whether the section begins with its own heading.
        page: of a PDF.
    """

    start: int
    end: int
    path: tuple[str, ...] = ()
    signature: str = ""
    titled: bool = False
    page: int | None = None


@dataclass(frozen=True)
class Text:
    """The text of a file as chunks are made of it.

    Attributes:
        lines: without line ends. Of PDF, docx and notebooks these are the lines of the extracted text.
        sections: they follow each other and cover all lines.
        separator: between the names of a section's path.
        depths: for each line at which a statement begins, how deep it is nested; None for text without syntax, where
            blank lines and indentation say where to cut.
    """

    lines: list[str]
    sections: Sequence[Section]
    separator: str
    depths: dict[int, int] | None = None
