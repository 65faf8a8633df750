"""The program that reads one PDF or docx file, in a process of its own: `python -P extract.py pdf < FILE`.

It prints JSON lines: each page of a PDF as a string, or each block of a docx file as [heading's level or null, text].
Such files come from anywhere, are compressed, and may be damaged: the parent ends this process when it takes too long,
this process limits its own memory, and what it has printed until then counts. Nothing of colbertz is imported.
"""

import io
import json
import re
import resource
import sys
import zipfile
from collections.abc import Iterator
from contextlib import suppress

# Bytes of memory of this process, and bytes that the parts of a docx file may have when unpacked.
_MAX_MEMORY = 4 << 30
_MAX_UNPACKED = 200 << 20
_HEADING_STYLE = re.compile(r"(?i)(?:heading|überschrift|titre|título|title)\s*(\d?)$")


def pages(content: bytes) -> Iterator[str]:
    """The text of each page of a PDF."""
    from pypdf import PdfReader

    for page in PdfReader(io.BytesIO(content)).pages:
        yield page.extract_text()


def blocks(content: bytes) -> Iterator[tuple[int | None, str]]:
    """Paragraphs and tables of a docx file; a paragraph with the level of the heading that it is, or None."""
    import docx
    from docx.table import Table

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(part.file_size for part in archive.infolist()) > _MAX_UNPACKED:
            raise SystemExit("the unpacked file is too large")
    for block in docx.Document(io.BytesIO(content)).iter_inner_content():
        if isinstance(block, Table):
            # A cell over several columns is listed once for each of them.
            rows = (dict.fromkeys(" ".join(cell.text.split()) for cell in row.cells) for row in block.rows)
            yield None, "\n".join(" | ".join(cell for cell in row if cell) for row in rows)
        else:
            style = block.style.name if block.style is not None else None
            heading = _HEADING_STYLE.match(style or "")
            yield (int(heading[1] or 0) if heading and block.text.strip() else None), block.text


def main() -> None:
    """Read the file from the standard input and print its text."""
    with suppress(ValueError, OSError):  # a lower limit holds already, or the system has none
        resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY, _MAX_MEMORY))
    content = sys.stdin.buffer.read()
    for part in (pages if sys.argv[1] == "pdf" else blocks)(content):
        print(json.dumps(part), flush=True)


if __name__ == "__main__":
    main()
