"""fast-plaid's and next-plaid's metadata.db: a table METADATA with a row for each document and a column for each field.

    _subset_     the document's number
    id, text     written by colbertz only
    _metadata_   the exact metadata as JSON, written by colbertz only: columns hold no lists and no booleans, and do not
                 tell null from a key that is missing
    …            a column for each top-level key of the metadata, for those programs' filters

fast-plaid and next-plaid keep all columns when they add and delete documents. Rows that they add have NULL in the
columns that colbertz alone writes. Newer versions of next-plaid keep most columns in a second table, METADATA_CONTENT.
"""

import base64
import itertools
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from colbertz.document import Document
from colbertz.errors import UserError
from colbertz.index.store.detect import damaged
from colbertz.index.store.documents import fold, quoted, set_limits
from colbertz.index.store.snapshot import Snapshot

NAME = "metadata.db"
# Instructions of SQLite that reading may take: with more of them, the rows of a damaged file have no end.
_STEPS_AT_LEAST = 100_000
_STEPS_PER_VALUE = 20
# Instructions after which they are counted.
_STEPS_AT_ONCE = 1000

_OWN = ("_subset_", "id", "text", "_metadata_", "_content_id_")


def read(path: Path, count: int) -> Iterator[Document]:
    """The `count` documents of an index, in order. A document without a row has a number for an id, and no more.

    Raises:
        UserError: if `path` is not such a database, or has rows for other documents.
    """
    if not path.exists():
        yield from (Document(str(number)) for number in range(count))
        return
    if not path.is_file():
        raise damaged(path, "it is no file")
    try:
        # With `immutable`, SQLite creates no files beside one that no program is writing.
        writing = path.with_name(path.name + "-wal").exists()
        options = "mode=ro" if writing else "mode=ro&immutable=1"
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?{options}", uri=True)) as connection:
            size = path.stat().st_size
            set_limits(connection, size)
            yield from _read(connection, count, size)
    except (sqlite3.Error, ValueError, RecursionError) as error:
        raise damaged(path, error) from error


def _read(connection: sqlite3.Connection, count: int, size: int) -> Iterator[Document]:
    table, columns = "METADATA", _columns_of(connection, "METADATA")
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'METADATA_CONTENT'").fetchone():
        table += " LEFT JOIN METADATA_CONTENT USING (_content_id_)"
        columns += _columns_of(connection, "METADATA_CONTENT")
        # Documents of one content share its values, so that the values are more than the file.
        size *= count
    steps = (_STEPS_AT_LEAST + _STEPS_PER_VALUE * (count + 1) * (len(columns) + 2)) // _STEPS_AT_ONCE
    connection.set_progress_handler(repeat(False, steps).__next__, _STEPS_AT_ONCE)
    rows = connection.execute(f"SELECT * FROM {table} ORDER BY _subset_ LIMIT ?", (count + 1,))
    columns = [name for name, *_ in rows.description]
    taken = set()
    if "_metadata_" in columns:
        ids = connection.execute(f"SELECT id FROM {table} LIMIT ?", (count + 1,))
        taken = {doc_id for (doc_id,) in _within(ids, size)}
    unused = (doc_id for doc_id in map(str, itertools.count()) if doc_id not in taken)
    doc_idx = 0
    for row in _within(rows, size):
        values = dict(zip(columns, row))
        if not isinstance(values["_subset_"], int) or not doc_idx <= values["_subset_"] < count:
            raise UserError(f"it has a row for document {values['_subset_']!r:.80} of {count}")
        while doc_idx < values["_subset_"]:
            yield Document(next(unused))
            doc_idx += 1
        yield _document(values, unused, "_metadata_" in columns)
        doc_idx += 1
    yield from (Document(next(unused)) for _ in range(doc_idx, count))


def _columns_of(connection: sqlite3.Connection, table: str) -> list[str]:
    """The columns of an ordinary table.

    Raises:
        UserError: if there is no such table, or something that computes its values: a view, a virtual table, a table
            with generated columns. What that costs has no limit.
    """
    ordinary = "SELECT 1 FROM sqlite_master WHERE name = ? AND type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'"
    columns = connection.execute(f"PRAGMA table_xinfo({table})").fetchall()
    if connection.execute(ordinary, (table,)).fetchone() is None or any(column[6] for column in columns):
        raise UserError(f"it has no ordinary table {table}")
    return [column[1] for column in columns]


def _within(rows: Iterator[tuple[Any, ...]], size: int) -> Iterator[tuple[Any, ...]]:
    """The rows, as long as their values have the size of the file: pages of a damaged file can be in many rows."""
    total = 0
    for row in rows:
        total += sum(len(value) for value in row if isinstance(value, str | bytes))
        if total > size:
            raise UserError("its values are longer than the file")
        yield row


def _document(values: dict[str, Any], unused: Iterator[str], ours: bool) -> Document:
    """The document of a row; `ours` says whether colbertz wrote the table, and `unused` gives ids for new documents."""
    if ours and values["_metadata_"] is not None:
        return _checked(Document(values["id"], values["text"], json.loads(values["_metadata_"])))
    hidden = _OWN if ours else ("_subset_", "_content_id_")
    fields = {name: _plain(value) for name, value in values.items() if value is not None and name not in hidden}
    if ours and values["id"] is not None:
        return _checked(Document(str(values["id"]), values["text"], fields))
    return _checked(Document(next(unused), values["text"] if ours else None, fields))


def _checked(document: Document) -> Document:
    """The document, if its values have the types that they must have: SQLite's columns hold any."""
    has_text = document.text is None or isinstance(document.text, str)
    if not isinstance(document.id, str) or not has_text or not isinstance(document.metadata, dict):
        raise UserError(f"document {document.id!r:.80} has values of the wrong type")
    return document


def _plain(value: Any) -> Any:
    """A value that JSON can hold: bytes become Base64, as next-plaid shows them too."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def write(path: Path, snapshot: Snapshot) -> None:
    """Write the documents that are not deleted, numbered from 0.

    Raises:
        OSError: if the file cannot be written, for instance because the disk is full.
    """
    try:
        with closing(sqlite3.connect(path)) as connection:
            _write(connection, snapshot)
    except sqlite3.OperationalError as error:
        raise OSError(f"cannot write {path}: {error}") from error


def _write(connection: sqlite3.Connection, snapshot: Snapshot) -> None:
    columns = _columns(snapshot)
    connection.execute("PRAGMA synchronous = OFF")
    typed = "".join(f", {quoted(name)} {kind}" for name, kind in columns.items())
    connection.execute(
        f'CREATE TABLE METADATA ("_subset_" INTEGER PRIMARY KEY, "id" TEXT, "text" TEXT, "_metadata_" TEXT{typed})'
    )
    doc_idx = itertools.count()
    for segment in snapshot.segments:
        fields = [name for name in segment.documents.fields if fold(name) in map(fold, columns)]
        names = ", ".join(map(quoted, ["_subset_", "id", "text", "_metadata_", *fields]))
        insert = f"INSERT INTO METADATA ({names}) VALUES (?, ?, ?, ?{', ?' * len(fields)})"
        chosen = "".join(f", fields.{quoted(name)}" for name in fields)
        with segment.documents.reading() as source:
            rows = source.execute(
                f"SELECT documents.number, documents.id, documents.text, documents.metadata{chosen}"
                " FROM documents JOIN fields ON fields.rowid = documents.number ORDER BY documents.number"
            )
            connection.executemany(insert, ((next(doc_idx), *row[1:]) for row in _live(rows, segment.live)))
    connection.commit()


def _live(rows: Iterator[tuple[Any, ...]], live: np.ndarray | None) -> Iterator[tuple[Any, ...]]:
    return (row for row in rows if live is None or live[row[0]])


def _columns(snapshot: Snapshot) -> dict[str, str]:
    """The fields that get a column, and their types: those of their first values, as in fast-plaid and next-plaid.

    A quotation mark in a name would end fast-plaid's SQL statements early; such a field is in `_metadata_` only.
    """
    types: dict[str, tuple[str, str]] = {}
    for segment in snapshot.segments:
        with segment.documents.reading() as source:
            for name in segment.documents.fields:
                if fold(name) not in (*_OWN, *types) and '"' not in name:
                    first = f"SELECT typeof({quoted(name)}) FROM fields WHERE {quoted(name)} IS NOT NULL LIMIT 1"
                    if row := source.execute(first).fetchone():
                        types[fold(name)] = (name, row[0].upper())
    return dict(types.values())
