"""The chunks of a file: what is encoded, and where it is in the file."""

from dataclasses import dataclass, replace
from pathlib import Path

from colbertz.corpus.folder import kinds, office, skipped
from colbertz.corpus.folder.code import code
from colbertz.corpus.folder.content import decoded, decompressed, is_generated, lines_of, read_bytes
from colbertz.corpus.folder.cutting import pieces
from colbertz.corpus.folder.data import data, whole
from colbertz.corpus.folder.html import html
from colbertz.corpus.folder.languages import LANGUAGES
from colbertz.corpus.folder.man import is_man, man
from colbertz.corpus.folder.markup import markdown, paragraphs, rst
from colbertz.corpus.folder.notebook import notebook
from colbertz.corpus.folder.sections import Text
from colbertz.corpus.folder.skipped import SkippedFile
from colbertz.corpus.folder.walk import DEFAULT_OPTIONS, WalkOptions

# Grows whenever the same file would give other chunks.
CHUNKER_VERSION = 2


@dataclass(frozen=True)
class Chunk:
    """A part of a file as a document of an index.

    Attributes:
        text: what is encoded and what BM25 reads: the heading or the symbol's path and signature, then lines of the
            file. It does not have the file's path, so that a rename changes nothing.
        start: the first line of the body, from 1. Of PDF, docx and notebooks it is a line of the extracted text.
        end: the last line.
        page: of a PDF, from 1.
        heading: headings ("Install > Linux") or the path of a symbol ("Index.build"); "" for none.
        kind: "code", "test", "docs" or "data".
        body_line: lines of `text` before the body.
    """

    text: str
    start: int
    end: int
    page: int | None
    heading: str
    kind: str
    body_line: int


def read_chunks(path: Path, name: str, options: WalkOptions = DEFAULT_OPTIONS) -> list[Chunk] | SkippedFile:
    """The chunks of a file.

    Args:
        path: of the file.
        name: its path relative to the folder; its ending decides how it is read.
        options: of the walk, for the largest file.
    """
    content = read_content(path, name, options)
    return content if isinstance(content, SkippedFile) else chunks_of(content, name, options)


def read_content(path: Path, name: str, options: WalkOptions = DEFAULT_OPTIONS) -> bytes | SkippedFile:
    """The bytes of a file, for a caller that computes their hash before it asks for chunks."""
    is_document = name.lower().endswith((".pdf", ".docx"))
    return read_bytes(path, options.max_document_bytes if is_document else options.max_bytes)


def chunks_of(content: bytes, name: str, options: WalkOptions = DEFAULT_OPTIONS) -> list[Chunk] | SkippedFile:
    """The chunks of a file's content; see `read_chunks`."""
    text = text_of(content, name, options)
    if isinstance(text, SkippedFile):
        return replace(text, size=len(content))
    kind = kinds.kind_of(name, kinds.format_of(name))
    chunks = []
    for piece in pieces(text):
        if piece.columns is None:
            body = text.lines[piece.start : piece.end]
        else:
            body = [text.lines[piece.start][slice(*piece.columns)]]
        page = piece.section.page
        whole_text = "\n".join([*piece.head, *body])
        chunks.append(Chunk(whole_text, piece.start + 1, piece.end, page, piece.heading, kind, len(piece.head)))
    return chunks if chunks else SkippedFile(skipped.EMPTY, len(content))


def text_of(content: bytes, name: str, options: WalkOptions = DEFAULT_OPTIONS) -> Text | SkippedFile:
    """The text of a file's content with its sections."""
    if name.lower().endswith(".gz"):
        unpacked = decompressed(content, options.max_bytes)
        return unpacked if isinstance(unpacked, SkippedFile) else text_of(unpacked, name[:-3], options)
    file_format = kinds.format_of(name)
    if file_format in ("pdf", "docx"):
        if not office.has_extractors():
            return SkippedFile(skipped.EXTRA)
        return office.pdf(content) if file_format == "pdf" else office.docx(content)
    source = decoded(content)
    if isinstance(source, SkippedFile):
        return source
    if file_format == "notebook":
        return notebook(source) or SkippedFile(skipped.DAMAGED)
    lines = lines_of(source)
    if is_generated(lines, file_format, name):
        return SkippedFile(skipped.GENERATED)
    if file_format in LANGUAGES or file_format == "header":
        return code(lines, file_format)
    if file_format == "html":
        return html(lines)
    if file_format == "man" and is_man(lines):
        return man(lines)
    if file_format == "code":
        return Text(lines, whole(lines), ".")
    sections = {"markdown": markdown, "rst": rst}.get(file_format)
    if file_format == "data":
        return Text(lines, data(lines, name), " > ")
    return Text(lines, sections(lines) if sections is not None else paragraphs(lines), " > ")
