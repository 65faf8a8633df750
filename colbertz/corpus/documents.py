"""Documents, queries and texts, made of the rows of a file."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, time
from typing import Any

from colbertz.corpus.formats import numeric_columns, read_rows, suffix_of
from colbertz.corpus.lines import name_of, read_text_lines
from colbertz.corpus.rows import BadRow, Row, shown
from colbertz.document import Document


def read_documents(source: str) -> Iterator[Document]:
    """The documents of a file in BEIR's layout: `_id` (or `id`), `text`, perhaps `title` and `metadata`.

    The text of a document is its title, if it has one, and its text. Other columns join the metadata. Dates and times,
    which Parquet has, are written as ISO 8601. In CSV and TSV, columns of numbers become numbers, and their empty cells
    None; see `colbertz.corpus.delimited.numeric_columns`.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: as `read_rows`; a `BadRow` for a row without id or text, or with metadata that JSON cannot hold, such
            as NaN or bytes.
    """
    rows = read_rows(source)
    numeric = numeric_columns(source) - {"title", "metadata"}
    for row in rows:
        values = dict(row.values)
        id, text = _id(values, row.where), _text(row)
        values.pop("_id" if "_id" in values else "id")
        values.pop("text")
        for column in numeric & values.keys():
            values[column] = json.loads(values[column]) if values[column] else None
        metadata = values.pop("metadata", None) or {}
        if not isinstance(metadata, dict):
            raise BadRow(f"{row.where}: `metadata` must be an object, {shown(metadata)}")
        metadata = {key: _plain(value) for key, value in (metadata | values).items()}
        try:
            json.dumps(metadata, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise BadRow(f"{row.where}: metadata must be JSON values: {error}") from error
        yield Document(id, text, metadata)


@dataclass(frozen=True)
class Query:
    """A query of a file."""

    id: str
    text: str


def read_queries(source: str) -> Iterator[Query]:
    """The queries of a file: `_id` (or `id`) and `text` of each row; in .tsv and other files lines of id, tab, text.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: as `read_rows`; a `BadRow` for a row or line without id or text.
    """
    if suffix_of(source) in ("", ".tsv"):
        for number, line in enumerate(read_text_lines(source), 1):
            id, tab, text = line.partition("\t")
            if not tab:
                where = f"{name_of(source)}, line {number}"
                raise BadRow(f"{where}: a query must be an id, a tab and its text, found {line!r:.60}")
            yield Query(id, text)
        return
    for row in read_rows(source):
        yield Query(_id(row.values, row.where), _text(row))


def read_texts(source: str) -> Iterator[str]:
    """The texts of a file: `title` and `text` of each row; in files of no known format each line. `-` is stdin.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: as `read_rows`; a `BadRow` for a row without text.
    """
    if suffix_of(source):
        yield from map(_text, read_rows(source))
    else:
        yield from read_text_lines(source)


def _id(values: dict[str, Any], where: str) -> str:
    """The id of a row; a whole number becomes its decimal digits."""
    key = "id" if "id" in values and "_id" not in values else "_id"
    value = values.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise BadRow(f"{where}: `{key}` must be a string or a whole number, {shown(value)}")
    return value


def _text(row: Row) -> str:
    title, text = row.values.get("title") or "", row.values.get("text")
    if not isinstance(text, str):
        raise BadRow(f"{row.where}: `text` must be a string, {shown(text)}")
    if not isinstance(title, str):
        raise BadRow(f"{row.where}: `title` must be a string, {shown(title)}")
    return f"{title} {text}".strip()


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date | time) else value
