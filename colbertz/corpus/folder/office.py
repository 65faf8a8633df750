"""PDF by pages and docx by headings. The extra `files` has the packages that read them; `extract.py` calls these."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from colbertz.corpus.folder import skipped
from colbertz.corpus.folder.markup import headed
from colbertz.corpus.folder.sections import Section, Text
from colbertz.corpus.folder.skipped import SkippedFile

# Seconds that one file may take. Of a PDF the pages read until then count.
_MAX_SECONDS = 60.0
# Characters of a file's text. The rest is not read.
_MAX_CHARACTERS = 20_000_000


def has_extractors() -> bool:
    """Whether the packages of the extra `files` are installed."""
    return find_spec("pypdf") is not None and find_spec("docx") is not None


def pdf(content: bytes, max_seconds: float = _MAX_SECONDS) -> Text | SkippedFile:
    """The text of a PDF, one section for each page."""
    lines: list[str] = []
    sections: list[Section] = []
    pages = _extracted("pdf", content, max_seconds)
    for number, page in enumerate(pages, 1):
        begin = len(lines)
        # A page's last line is blank, so that no paragraph runs over it.
        lines += [*page.split("\n"), ""]
        sections.append(Section(begin, len(lines), page=number))
    return Text(lines, sections, " > ") if pages else SkippedFile(skipped.DAMAGED, len(content))


def docx(content: bytes, max_seconds: float = _MAX_SECONDS) -> Text | SkippedFile:
    """The text of a Word document by its headings: paragraphs, and tables row by row."""
    lines: list[str] = []
    headings: list[tuple[int, int, str]] = []
    blocks = _extracted("docx", content, max_seconds)
    for level, text in blocks:
        if level is not None:
            headings.append((len(lines), level, text))
        lines += [*text.split("\n"), ""]
    return Text(lines, headed(headings, len(lines)), " > ") if blocks else SkippedFile(skipped.DAMAGED, len(content))


def _extracted(file_format: str, content: bytes, max_seconds: float) -> list:
    """What `extract.py` prints, up to where it failed or its time was over."""
    command = [sys.executable, "-P", str(Path(__file__).with_name("extract.py")), file_format]
    try:
        printed = subprocess.run(command, input=content, capture_output=True, timeout=max_seconds, check=False).stdout
    except subprocess.TimeoutExpired as error:
        printed = error.stdout or b""
    parts, characters = [], 0
    # The last line is not complete if the process was ended.
    for line in printed[: printed.rfind(b"\n") + 1].splitlines():
        characters += len(line)
        if characters > _MAX_CHARACTERS:
            break
        parts.append(json.loads(line))
    return parts
