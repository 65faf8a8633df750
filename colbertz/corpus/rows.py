"""Reading texts, one a line, and corpora, JSON lines in BEIR's layout; gzipped too, and from stdin."""

import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from colbertz.errors import UserError


@dataclass(frozen=True)
class CorpusRow:
    """A document of a corpus; `text` is the title, if there is one, and the text."""

    id: str
    text: str
    metadata: dict[str, Any]


def read_texts(source: str) -> Iterator[str]:
    """The texts of a file: the `title` and `text` of each row of .jsonl, else each line. `-` is stdin, a text a line.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a row is not as it should be, naming the line.
    """
    if _is_jsonl(source):
        yield from (_text(row, where) for row, where in read_rows(source))
    else:
        yield from (line for line, _ in _lines(source))


def read_corpus(source: str) -> Iterator[CorpusRow]:
    """The documents of a .jsonl file: `_id`, `text`, perhaps `title` and `metadata`; other fields join the metadata.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a row is not as it should be, naming the line.
    """
    for row, where in read_rows(source):
        id = row.pop("_id", None)
        if not isinstance(id, str):
            raise UserError(f"{where}: `_id` must be a string, {_found(id)}")
        text = _text(row, where)
        row.pop("text")
        metadata = row.pop("metadata", None) or {}
        if not isinstance(metadata, dict):
            raise UserError(f"{where}: `metadata` must be an object, {_found(metadata)}")
        yield CorpusRow(id, text, metadata | row)


@dataclass(frozen=True)
class Query:
    """A query of a file."""

    id: str
    text: str


def read_queries(source: str) -> Iterator[Query]:
    """The queries of a file: `_id` and `text` of each row of .jsonl, else lines of id, tab, text.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a line is not as it should be, naming it.
    """
    if _is_jsonl(source):
        for row, where in read_rows(source):
            id = row.get("_id")
            if not isinstance(id, str):
                raise UserError(f"{where}: `_id` must be a string, {_found(id)}")
            yield Query(id, _text(row, where))
        return
    for line, where in _lines(source):
        id, tab, text = line.partition("\t")
        if not tab:
            raise UserError(f"{where}: a query must be an id, a tab and its text, found {line!r:.60}")
        yield Query(id, text)


def require_file(source: str) -> None:
    """Raises FileNotFoundError now rather than when a generator gets to it."""
    if source != "-" and not Path(source).is_file():
        raise FileNotFoundError(f"there is no file {source}")


def _is_jsonl(source: str) -> bool:
    return source.removesuffix(".gz").endswith((".jsonl", ".ndjson"))


def _text(row: dict[str, Any], where: str) -> str:
    title, text = row.get("title") or "", row.get("text")
    if not isinstance(text, str):
        raise UserError(f"{where}: `text` must be a string, {_found(text)}")
    if not isinstance(title, str):
        raise UserError(f"{where}: `title` must be a string, {_found(title)}")
    return f"{title} {text}".strip()


def _found(value: Any) -> str:
    return "there is none" if value is None else f"found {value!r:.60}"


def read_rows(source: str) -> Iterator[tuple[dict[str, Any], str]]:
    """The objects of a .jsonl file, and where each stands, for messages.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a line that is no JSON object.
    """
    for line, where in _lines(source):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{where}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise UserError(f"{where}: each line must be a JSON object, {_found(row)}")
        yield row, where


def _lines(source: str) -> Iterator[tuple[str, str]]:
    """Each line without its end, and where it stands."""
    name = "stdin" if source == "-" else source
    number = 0
    try:
        with _opened(source) as file:
            for number, line in enumerate(file, 1):
                yield line.rstrip("\n"), f"{name}, line {number}"
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{name} cannot be read after line {number}: {error}") from error


@contextmanager
def _opened(source: str) -> Iterator[TextIO]:
    if source == "-":
        # Whatever the locale says, texts are UTF-8; and \r\n ends a line as \n does.
        yield io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8")
        return
    require_file(source)
    with (
        gzip.open(source, "rt", encoding="utf-8")
        if source.endswith(".gz")
        else Path(source).open(encoding="utf-8") as file
    ):
        yield file
