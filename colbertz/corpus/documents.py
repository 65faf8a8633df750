"""Documents, queries and texts, made of the rows of a file."""

import json
from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, time
from itertools import chain
from typing import Any

from colbertz.corpus import delimited
from colbertz.corpus.formats import numeric_columns, read_rows, suffix_of
from colbertz.corpus.lines import BLANKS, name_of, read_lines, read_text_lines, text_lines
from colbertz.corpus.rows import BadRow, OnBad, Row, Unique, refuse, shown
from colbertz.document import Document

# Names of the columns of queries. Where a file has several of them, the first one counts.
QUERY_IDS = ("_id", "id", "qid", "query_id", "query-id")
QUERY_TEXTS = ("text", "query", "query_text")


def read_documents(source: str, on_bad: OnBad = refuse) -> Iterator[Document]:
    """The documents of a file in BEIR's layout: `_id` (or `id`), `text`, perhaps `title` and `metadata`.

    The text of a document is its title, if it has one, and its text. Other columns join the metadata. Dates and times,
    which Parquet has, are written as ISO 8601. In CSV and TSV, columns of numbers become numbers, and their empty cells
    None; see `colbertz.corpus.delimited.numeric_columns`.

    Args:
        source: the file.
        on_bad: gets the `BadRow` of each row that cannot be read, has no id or text, or has metadata that JSON cannot
            hold, such as NaN or bytes; unless it raises, the row is left out.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: as `read_rows`.
    """
    rows = read_rows(source, on_bad)
    # The rows that are left out here are counted when they are read again below.
    numeric = numeric_columns(source, on_bad if on_bad is refuse else lambda error: None) - {"title", "metadata"}
    for row in rows:
        try:
            document = _document(row, numeric)
        except BadRow as error:
            on_bad(error)
            continue
        yield document


def _document(row: Row, numeric: set[str]) -> Document:
    values = dict(row.values)
    id_column = _first_of(values, ("_id", "id"))
    id, text = _id(values, row.where, id_column), _text(row)
    values.pop(id_column)
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
    return Document(id, text, metadata, row.where)


@dataclass(frozen=True)
class Query:
    """A query of a file; `where` is its place there, for messages."""

    id: str
    text: str
    where: str = field(default="", compare=False)


def read_queries(source: str) -> Iterator[Query]:
    """The queries of a file: an id and a text in each row; in .tsv and other files also lines of id, tab, text.

    The columns may be in any order. The id is `_id`, `id`, `qid`, `query_id` or `query-id`, the text `text`, `query` or
    `query_text`, perhaps with a `title`; other columns are not read. A .tsv file whose first line has such names is a
    table with a header. One without is lines of id, tab, text, without quoting, as MS MARCO is distributed.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: as `read_rows`; a `BadRow` for a row or line without id or text, and for an id that comes twice,
            naming both places.
    """
    ids = Unique()
    for query, where in read_ids_and_texts(source):
        ids.add(query.id, where, f"the query id {query.id!r}")
        yield query


def read_ids_and_texts(source: str) -> Iterator[tuple[Query, str]]:
    """As `read_queries`, with the place of each, and for files so large that ids are not compared."""
    if suffix_of(source) not in ("", ".tsv"):
        yield from map(_query, read_rows(source))
        return
    lines, name = read_lines(source), name_of(source)
    first = []  # the lines up to the first one that is not blank
    for line in lines:
        first.append(line)
        if line.removeprefix(BOM_UTF8).strip(BLANKS.encode()):
            break
    lines = chain(first, lines)
    if first and _is_header(first[-1]):
        yield from map(_query, delimited.parse(lines, "\t", name))
        return
    for number, text_line in enumerate(text_lines(lines, name), 1):
        id, tab, text = text_line.partition("\t")
        if text_line and not tab:
            raise BadRow(f"{name}, line {number}: a query must be an id, a tab and its text, found {text_line!r:.60}")
        if text_line:
            where = f"{name}, line {number}"
            yield Query(id, text, where), where


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


def _is_header(line: bytes) -> bool:
    """Whether the first line of tab-separated queries names columns, in upper or lower case."""
    cells = line.removeprefix(BOM_UTF8).decode(errors="replace").lower().split("\t")
    names = [cell.strip(f'{BLANKS}"') for cell in cells]
    return names[0] in QUERY_IDS or not (set(QUERY_IDS).isdisjoint(names) or set(QUERY_TEXTS).isdisjoint(names))


def _query(row: Row) -> tuple[Query, str]:
    id_column, text_column = (_first_of(row.values, names) for names in (QUERY_IDS, QUERY_TEXTS))
    values = row.values | {"text": row.values.get(text_column)}
    return Query(_id(row.values, row.where, id_column), _text(Row(values, row.where)), row.where), row.where


def _first_of(values: dict[str, Any], names: tuple[str, ...]) -> str:
    """The first of the names that a row has; the first of all if it has none."""
    return next((name for name in names if name in values), names[0])


def _id(values: dict[str, Any], where: str, key: str) -> str:
    """The id of a row; a whole number becomes its decimal digits."""
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
