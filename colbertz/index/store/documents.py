"""Ids, texts and metadata of a segment's documents, in one SQLite file that never changes once it is written.

    documents   number (the local_idx), id, text, metadata as JSON: what a hit shows
    fields      local_idx (as rowid) and a column for each top-level key of the metadata: what filters read. The table
                has no texts, so that a filter reads fewer pages.
    postings    word, occurrences: the local_idx of the document of each occurrence, ascending, as int32
    lengths     the number of words of each document, as int32

The last two are the inverted index of `colbertz.index.search.fulltext`. FTS5, the full-text search of SQLite, only
splits texts into words. Its own index is not kept: it would need as much space again, and it gives term frequencies
only one occurrence at a time. The file's `user_version` says which splitter of `colbertz.index.store.words` was used.
"""

import json
import os
import sqlite3
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase
from typing import Any

import numpy as np

from colbertz.document import Document
from colbertz.errors import UserError
from colbertz.index.store.words import BIGRAMS, find_words, is_prefix, separate
from colbertz.kernels.cpu.threads import Lock

# The columns of a document itself. A metadata key with such a name has no column.
OWN_COLUMNS = ("id", "text", "metadata")
# SQLite's names of the row number. A metadata key with such a name has no column either.
ROW_NUMBERS = ("rowid", "oid", "_rowid_")
# SQLite allows 2,000 columns. With more than half of that, keys are most likely no names of fields.
MAX_FIELDS = 1000
# Characters of the texts whose words are counted together, in memory: at most three times as many bytes.
_BATCH_CHARACTERS = 1 << 24
# Rows of one query when all documents are read.
_READ_AT_ONCE = 1000

_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)

_SCHEMA = """
CREATE TABLE documents (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, text TEXT, metadata TEXT NOT NULL);
CREATE TABLE fields (rowid INTEGER PRIMARY KEY);
CREATE TABLE postings (word BLOB, first INTEGER, occurrences BLOB, PRIMARY KEY (word, first)) WITHOUT ROWID;
CREATE TABLE lengths (first INTEGER PRIMARY KEY, lengths BLOB);
"""


def fold(name: str) -> str:
    """A name with its ASCII letters in lower case: SQL does not tell names apart that differ in these only."""
    return name.translate(_LOWER)


def quoted(name: str) -> str:
    """A name as SQL has it in quotes."""
    return '"' + name.replace('"', '""') + '"'


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
        self._add_fields(json.loads(metadata), where)
        if text:
            text = separate(text, self._splitter)
            self._texts.append((self.count, text))
            self._characters += len(text)
        self.count += 1

    def _add_fields(self, metadata: dict[str, Any], where: str) -> None:
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
            f"INSERT INTO fields (rowid{names}) VALUES (?{marks})", (self.count, *columns.values())
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
    try:
        with closing(sqlite3.connect(path)) as connection:
            # The caller syncs the complete file before it makes it visible, so that a journal would protect nothing.
            connection.execute("PRAGMA journal_mode = OFF")
            connection.execute("PRAGMA synchronous = OFF")
            connection.executescript(_SCHEMA)
            # Where documents were read, for messages. SQLite keeps this table in a file that it removes at the end.
            connection.execute("CREATE TEMP TABLE places (number INTEGER PRIMARY KEY, place TEXT)")
            connection.execute(f"PRAGMA user_version = {splitter}")
            writer = DocumentWriter(connection, splitter, batch_characters)
            yield writer
            writer.count_words()
            connection.commit()
    except sqlite3.OperationalError as error:
        raise OSError(f"cannot write {path}: {error}") from error


class Documents:
    """Reads the file at `path`, in any thread. The file stays open, so that it may be deleted meanwhile.

    Attributes:
        fields: the metadata keys that have a column, in the order in which they were first seen.
        splitter: how the texts were split into words, see `colbertz.index.store.words`.
    """

    def __init__(self, path: Path, count: int) -> None:
        """Open the file.

        Raises:
            UserError: if it is not such a file, does not hold `count` documents, or was written by a later version.
            OSError: if the process has too many files open, for example.
        """
        # There is one connection, because a second one could not open a file that is deleted. It has a lock, because
        # not every build of SQLite lets threads share a connection, and because a filter sets its time limit on it.
        self._lock = Lock()
        self._path = path
        try:
            self._connect()
            (last,) = self._connection.execute("SELECT max(number) FROM documents").fetchone()
            columns = self._connection.execute("SELECT * FROM fields LIMIT 0").description
            (self.splitter,) = self._connection.execute("PRAGMA user_version").fetchone()
        except sqlite3.DatabaseError as error:
            if path.exists():
                path.open("rb").close()  # says if it is no damage: too many files are open, for example
            raise UserError(f"{path} is damaged: {error}; build the index again") from error
        if last != count - 1:
            raise UserError(f"{path} is damaged: it ends at document {last} of {count}; build the index again")
        if self.splitter > BIGRAMS:
            raise UserError(
                f"{path} has words of splitter {self.splitter} and this colbertz knows {BIGRAMS}: upgrade it"
            )
        self.fields = tuple(name for name, *_ in columns[1:])
        self._count = count

    def __len__(self) -> int:
        return self._count

    def _connect(self) -> None:
        self._process = os.getpid()
        self._connection = sqlite3.connect(
            f"{self._path.resolve().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False
        )
        weakref.finalize(self, self._connection.close)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection. Other threads wait until the block ends.

        Raises:
            UserError: in a forked child, which must open the file again, if the file was deleted meanwhile.
        """
        with self._lock:
            if self._process != os.getpid():
                if not self._path.exists():
                    raise UserError(
                        f"{self._path} was deleted before this forked process read it; refresh the index, or open it"
                        " after the fork"
                    )
                self._connect()
            yield self._connection

    def _first_rows(self, query: str, values: Iterable[Any]) -> list[Any]:
        """The first row of the query for each value, None where there is none."""
        with self.reading() as connection:
            return [connection.execute(query, (value,)).fetchone() for value in values]

    def get(self, local_idx: Sequence[int] | np.ndarray) -> list[Document]:
        """The documents at these places, in the same order."""
        query = "SELECT id, text, metadata FROM documents WHERE number = ?"
        return [_document(row) for row in self._first_rows(query, map(int, local_idx))]

    def __getitem__(self, local_idx: int) -> Document:
        return self.get([local_idx])[0]

    def __iter__(self) -> Iterator[Document]:
        """All documents in order, with at most 1,000 of them in memory."""
        query = "SELECT id, text, metadata FROM documents WHERE number >= ? ORDER BY number LIMIT ?"
        for first in range(0, len(self), _READ_AT_ONCE):
            with self.reading() as connection:
                rows = connection.execute(query, (first, _READ_AT_ONCE)).fetchall()
            yield from map(_document, rows)

    def ids(self, local_idx: Sequence[int] | None = None) -> list[str]:
        """The ids of the documents at these places, in that order; of all documents if None."""
        if local_idx is None:
            with self.reading() as connection:
                rows = connection.execute("SELECT id FROM documents ORDER BY number").fetchall()
        else:
            rows = self._first_rows("SELECT id FROM documents WHERE number = ?", map(int, local_idx))
        return [doc_id for (doc_id,) in rows]

    def local_idx_of(self, ids: Sequence[str]) -> list[int | None]:
        """The place of the document with each of these ids; None for an id that is not here."""
        rows = self._first_rows("SELECT number FROM documents WHERE id = ?", ids)
        return [row[0] if row else None for row in rows]

    def occurrences(self, word: bytes) -> np.ndarray:
        """(num_occurrences,) int32: the local_idx of the document of each occurrence of a word, ascending.

        A single character of a script without blanks occurs in all words that begin with it.
        """
        if is_prefix(word, self.splitter):
            # No word holds the byte 0xff.
            query = "SELECT occurrences FROM postings WHERE word >= ? AND word < ?"
            return np.sort(self._array(query, (word, word + b"\xff")))
        return self._array("SELECT occurrences FROM postings WHERE word = ? ORDER BY first", (word,))

    @cached_property
    def lengths(self) -> np.ndarray:
        """(num_documents,) int32: the number of words of each document, 0 for one without text."""
        return self._array("SELECT lengths FROM lengths ORDER BY first", ())

    def _array(self, query: str, parameters: Sequence[Any]) -> np.ndarray:
        with self.reading() as connection:
            rows = connection.execute(query, parameters).fetchall()
        return np.frombuffer(b"".join(blob for (blob,) in rows), "<i4")


def _document(row: tuple[str, str | None, str]) -> Document:
    doc_id, text, metadata = row
    return Document(doc_id, text, json.loads(metadata))
