"""Writes the file with the ids, texts, metadata and words of a segment's documents; see `documents.py`."""

import json
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from colbertz.document import Document
from colbertz.errors import UserError
from colbertz.index.store.documents import OWN_COLUMNS, ROW_NUMBERS, SCHEMA, fold, quoted
from colbertz.index.store.words import BIGRAMS, find_words, separate

# SQLite allows 2,000 columns. With more than half of that, keys are most likely no names of fields.
MAX_FIELDS = 1000
# Characters of the texts whose words are counted together, in memory: at most three times as many bytes.
_BATCH_CHARACTERS = 1 << 24


class DocumentWriter:
    """Appends documents to a new file. Use through `write_documents`.

    Attributes:
        count: documents so far.
        fields: their metadata keys that have a column, in lower case.
    """

    def __init__(self, connection: sqlite3.Connection, splitter: int, batch_characters: int) -> None:
        self.count = 0
        self.fields: set[str] = set()
        self._connection = connection
        self._splitter = splitter
        self._batch_characters = batch_characters
        # Texts whose words are not counted yet, with the local_idx of their documents; the number of their characters;
        # and the first document whose words are not counted.
        self._texts: list[tuple[int, str]] = []
        self._characters = 0
        self._uncounted = 0

    def add(self, documents: Iterable[Document]) -> None:
        """Store the next documents.

        Raises:
            TypeError: if an id or text is not a string, or metadata is not a dict that JSON can hold.
            UserError: if two documents have the same id, a text is not Unicode, or metadata keys cannot be columns: a
                key has a NUL, two keys of one document differ only in case, or all documents have more than 1,000 keys.
        """
        for document in documents:
            self._add(document)
            if self._characters >= self._batch_characters:
                self.count_words()

    def _add(self, document: Document) -> None:
        doc_id, text = document.id, document.text
        if not isinstance(doc_id, str):
            raise TypeError(f"document {self.count}: ids must be strings, got {doc_id!r} ({type(doc_id).__name__})")
        where = document.named(self.count)
        if text is not None and not isinstance(text, str):
            raise TypeError(f"{where}: texts must be strings, got {type(text).__name__}")
        metadata = _to_json(document.metadata, where)
        try:
            row = (self.count, doc_id, text, metadata)
            self._connection.execute("INSERT INTO documents VALUES (?, ?, ?, ?)", row)
        except sqlite3.IntegrityError:
            query = "SELECT number, place FROM documents LEFT JOIN places USING (number) WHERE id = ?"
            other, place = self._connection.execute(query, (doc_id,)).fetchone()
            first, second = (f" ({where})" if where else "" for where in (place, document.where))
            raise UserError(
                f"documents {other}{first} and {self.count}{second} have the same id {doc_id!r}; ids must be unique"
            ) from None
        except UnicodeEncodeError as error:
            raise UserError(f"{where} holds text that is not Unicode: {error}") from error
        if document.where is not None:
            self._connection.execute("INSERT INTO places VALUES (?, ?)", (self.count, document.where))
        # Use the metadata as a reader gets it back: JSON turns every key into a string, and tuples into lists.
        self.set_fields(self.count, json.loads(metadata), where)
        if text:
            text = separate(text, self._splitter)
            self._texts.append((self.count, text))
            self._characters += len(text)
        self.count += 1

    def set_fields(self, local_idx: int, metadata: dict[str, Any], where: str) -> None:
        """Store the metadata of a document for filters, in place of what is there of it."""
        columns: dict[str, Any] = {}
        for key, value in metadata.items():
            name = fold(key)
            if name in OWN_COLUMNS or name in ROW_NUMBERS:
                continue
            if name in columns:
                raise UserError(f"{where}: two metadata keys differ only in the case of {key!r}; rename one of them")
            if name not in self.fields:
                self._new_field(key, where)
            columns[name] = _column_value(value)
        names = "".join(f", {quoted(name)}" for name in columns)
        marks = ", ?" * len(columns)
        self._connection.execute(
            f"REPLACE INTO fields (rowid{names}) VALUES (?{marks})", (local_idx, *columns.values())
        )

    def _new_field(self, key: str, where: str) -> None:
        if "\0" in key:
            raise UserError(f"{where}: metadata key {key!r} holds a NUL character; rename it")
        if len(self.fields) == MAX_FIELDS:
            raise UserError(
                f"{where}: {key!r} is one metadata key more than the {MAX_FIELDS:,} that an index can hold; keys "
                'should be the names of fields: put what varies into values, as in {"name": …, "value": …}'
            )
        self._connection.execute(f"ALTER TABLE fields ADD COLUMN {quoted(key)}")
        self.fields.add(fold(key))

    def count_words(self) -> None:
        """Write the inverted index of the documents since the last call."""
        first, lengths = self._uncounted, np.zeros(self.count - self._uncounted, "<i4")
        for word, numbers in find_words(self._texts, self._splitter, separated=True):
            np.add.at(lengths, numbers - first, 1)
            self._connection.execute("INSERT INTO postings VALUES (?, ?, ?)", (word, first, numbers.tobytes()))
        self._connection.execute("INSERT INTO lengths VALUES (?, ?)", (first, lengths.tobytes()))
        self._texts, self._characters, self._uncounted = [], 0, self.count


def _to_json(metadata: Any, where: str) -> str:
    if not isinstance(metadata, dict):
        raise TypeError(f"{where}: metadata must be a dict, got {type(metadata).__name__}")
    try:
        return json.dumps(metadata, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{where}: metadata must be plain JSON values: {error}") from error


def _column_value(value: Any) -> Any:
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return float(str(value))  # as SQL reads such a number: float("1e400") is infinity, float(10**400) an error
    return value


@contextmanager
def write_documents(
    path: Path, *, splitter: int = BIGRAMS, batch_characters: int = _BATCH_CHARACTERS
) -> Iterator[DocumentWriter]:
    """Create the file at `path`; it is complete when the block ends.

    Args:
        path: must not exist yet.
        splitter: how texts are split into words, see `colbertz.index.store.words`.
        batch_characters: characters of the texts whose words are counted together, in memory.

    Raises:
        OSError: if the file cannot be written, for instance because the disk is full.
    """
    with _written(path) as connection:
        connection.executescript(SCHEMA)
        # Where documents were read, for messages. SQLite keeps this table in a file that it removes at the end.
        connection.execute("CREATE TEMP TABLE places (number INTEGER PRIMARY KEY, place TEXT)")
        connection.execute(f"PRAGMA user_version = {splitter}")
        writer = DocumentWriter(connection, splitter, batch_characters)
        yield writer
        writer.count_words()


def replace_metadata(source: Path, path: Path, documents: Mapping[int, Document]) -> set[str]:
    """Create a file at `path` that is `source` with other metadata of some documents.

    Args:
        source: a file that `write_documents` made, or this function.
        path: must not exist yet.
        documents: the changed documents by their local_idx.

    Returns:
        The metadata keys that have a column now, in lower case.

    Raises:
        TypeError, UserError: as `DocumentWriter.add`, for the metadata.
        OSError: if the file cannot be written.
    """
    shutil.copyfile(source, path)
    with _written(path) as connection:
        (splitter,) = connection.execute("PRAGMA user_version").fetchone()
        writer = DocumentWriter(connection, splitter, _BATCH_CHARACTERS)
        columns = connection.execute("SELECT * FROM fields LIMIT 0").description
        writer.fields = {fold(name) for name, *_ in columns[1:]}
        for local_idx, document in documents.items():
            where = document.named(local_idx)
            metadata = _to_json(document.metadata, where)
            connection.execute("UPDATE documents SET metadata = ? WHERE number = ?", (metadata, local_idx))
            writer.set_fields(local_idx, json.loads(metadata), where)
    return writer.fields


@contextmanager
def _written(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection for writing a file that nobody reads yet; it is complete when the block ends."""
    try:
        with closing(sqlite3.connect(path)) as connection:
            # The caller syncs the complete file before it makes it visible, so that a journal would protect nothing.
            connection.execute("PRAGMA journal_mode = OFF")
            connection.execute("PRAGMA synchronous = OFF")
            yield connection
            connection.commit()
    except sqlite3.OperationalError as error:
        raise OSError(f"cannot write {path}: {error}") from error
