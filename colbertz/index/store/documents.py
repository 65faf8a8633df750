"""Ids, texts and metadata of a segment's documents, in one SQLite file that never changes once it is written.

`document_writer.py` writes the file. It may come from somewhere else, so it is read with suspicion: only these tables,
no value longer than the file, and no place of a document that does not exist.

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
import re
import sqlite3
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase
from types import NoneType
from typing import Any

import numpy as np

from colbertz.document import Document
from colbertz.errors import UserError
from colbertz.index.store.words import BIGRAMS, UNICODE61, is_prefix
from colbertz.kernels.cpu.threads import Lock

# The columns of a document itself. A metadata key with such a name has no column.
OWN_COLUMNS = ("id", "text", "metadata")
# SQLite's names of the row number. A metadata key with such a name has no column either.
ROW_NUMBERS = ("rowid", "oid", "_rowid_")
# Rows of one query when all documents are read.
_READ_AT_ONCE = 1000

_SURROGATE = re.compile("[\ud800-\udfff]")
_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)

SCHEMA = """
CREATE TABLE documents (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, text TEXT, metadata TEXT NOT NULL);
CREATE TABLE fields (rowid INTEGER PRIMARY KEY);
CREATE TABLE postings (word BLOB, first INTEGER, occurrences BLOB, PRIMARY KEY (word, first)) WITHOUT ROWID;
CREATE TABLE lengths (first INTEGER PRIMARY KEY, lengths BLOB);
"""

# Limits of SQLite for statements with text of a user. The time of LIKE and GLOB is at most a text's length times the
# pattern's, in which nothing can stop them: 0.13 s for a million letters and 100 bytes.
_LIMITS = {
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 100,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 1000,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 1_000_000,
    sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER: 30_000,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 1,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
}
# Bytes of the longest value that a small file may hold or a filter may make; a large file may hold longer ones.
_LEAST_LENGTH_LIMIT = 1 << 24


def set_limits(connection: sqlite3.Connection, file_bytes: int = 0) -> None:
    """Limit what a statement on this connection can cost, for statements with text of a user, and for hostile files.

    Args:
        connection: is changed.
        file_bytes: size of the file. No value in it is longer, unless the file is damaged.
    """
    for limit, value in _LIMITS.items():
        connection.setlimit(limit, value)
    longest = min(max(file_bytes, _LEAST_LENGTH_LIMIT), connection.getlimit(sqlite3.SQLITE_LIMIT_LENGTH))
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, longest)


def fold(name: str) -> str:
    """A name with its ASCII letters in lower case: SQL does not tell names apart that differ in these only."""
    return name.translate(_LOWER)


def quoted(name: str) -> str:
    """A name as SQL has it in quotes."""
    return '"' + name.replace('"', '""') + '"'


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
        self._count = count
        with self._unless_damaged():
            self._connect()
            with self.reading() as connection:
                _check_schema(connection)
                (first, last) = connection.execute("SELECT min(number), max(number) FROM documents").fetchone()
                columns = connection.execute("SELECT * FROM fields LIMIT 0").description
                (self.splitter,) = connection.execute("PRAGMA user_version").fetchone()
        if first != 0 or last != count - 1:
            raise self._damaged(f"it begins at document {first} and ends at document {last} of {count}")
        if self.splitter > BIGRAMS:
            raise UserError(
                f"{path} has words of splitter {self.splitter} and this colbertz knows {BIGRAMS}: upgrade it"
            )
        if self.splitter not in (UNICODE61, BIGRAMS):
            raise self._damaged(f"its words are of splitter {self.splitter}")
        self.fields = tuple(name for name, *_ in columns[1:])

    def __len__(self) -> int:
        return self._count

    def _connect(self) -> None:
        self._process = os.getpid()
        address = f"{self._path.resolve().as_uri()}?mode=ro&immutable=1"
        try:
            self._connection = sqlite3.connect(address, uri=True, check_same_thread=False)
        except sqlite3.OperationalError:
            if self._path.exists():
                self._path.open("rb").close()  # says if it is no damage: too many files are open, for example
            raise
        set_limits(self._connection, self._path.stat().st_size)
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

    def _damaged(self, what: object) -> UserError:
        return UserError(f"{self._path} is damaged: {what}; build the index again")

    @contextmanager
    def _unless_damaged(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error

    def checked(self, local_idx: np.ndarray) -> np.ndarray:
        """These places as int32.

        Raises:
            UserError: if one is no place of a document: the file, which held them, is damaged.
        """
        if len(local_idx) and not 0 <= local_idx.min() <= local_idx.max() < self._count:
            raise self._damaged(f"it names documents {local_idx.min()} to {local_idx.max()} of {self._count}")
        return local_idx.astype(np.int32)

    def _rows(self, query: str, parameters: Sequence[Any] = ()) -> list[Any]:
        with self._unless_damaged(), self.reading() as connection:
            return connection.execute(query, parameters).fetchall()

    def _first_rows(self, query: str, values: Iterable[Any]) -> list[Any]:
        """The first row of the query for each value, None where there is none."""
        with self._unless_damaged(), self.reading() as connection:
            return [connection.execute(query, (value,)).fetchone() for value in values]

    def _document(self, row: tuple[Any, Any, Any] | None) -> Document:
        if row is None:
            raise self._damaged("a document is missing")
        doc_id, text, metadata = row
        try:
            parsed = json.loads(metadata)
        except (TypeError, ValueError, RecursionError) as error:
            raise self._damaged(f"the metadata of document {doc_id!r:.80} is no JSON ({error})") from error
        if not isinstance(doc_id, str) or not isinstance(text, (str, NoneType)) or not isinstance(parsed, dict):
            raise self._damaged(f"document {doc_id!r:.80} has values of the wrong type")
        return Document(doc_id, text, parsed)

    def get(self, local_idx: Sequence[int] | np.ndarray) -> list[Document]:
        """The documents at these places, in the same order."""
        query = "SELECT id, text, metadata FROM documents WHERE number = ?"
        return [self._document(row) for row in self._first_rows(query, map(int, local_idx))]

    def __getitem__(self, local_idx: int) -> Document:
        return self.get([local_idx])[0]

    def __iter__(self) -> Iterator[Document]:
        """All documents in order, with at most 1,000 of them in memory."""
        query = "SELECT id, text, metadata FROM documents WHERE number >= ? AND number < ? ORDER BY number LIMIT ?"
        for first in range(0, len(self), _READ_AT_ONCE):
            size = min(_READ_AT_ONCE, len(self) - first)
            rows = self._rows(query, (first, first + size, size))
            if len(rows) != size:
                raise self._damaged(f"of documents {first} to {first + size - 1} it has {len(rows)}")
            yield from map(self._document, rows)

    def ids(self, local_idx: Sequence[int] | None = None) -> list[str]:
        """The ids of the documents at these places, in that order; of all documents if None."""
        if local_idx is None:
            rows = self._rows("SELECT id FROM documents ORDER BY number LIMIT ?", (len(self),))
        else:
            rows = self._first_rows("SELECT id FROM documents WHERE number = ?", map(int, local_idx))
        if len(rows) != len(self if local_idx is None else local_idx) or not all(
            row is not None and isinstance(row[0], str) for row in rows
        ):
            raise self._damaged("an id is missing, or is not a text")
        return [doc_id for (doc_id,) in rows]

    def local_idx_of(self, ids: Sequence[str]) -> list[int | None]:
        """The place of the document with each of these ids; None for an id that is not here."""
        # SQLite would refuse a lone surrogate, which is not valid Unicode; no stored id has one, and none equals NULL.
        valid = [None if _SURROGATE.search(doc_id) else doc_id for doc_id in ids]
        rows = self._first_rows("SELECT number FROM documents WHERE id = ?", valid)
        self.checked(np.array([row[0] for row in rows if row], np.int64))
        return [row[0] if row else None for row in rows]

    def occurrences(self, word: bytes) -> np.ndarray:
        """(num_occurrences,) int32: the local_idx of the document of each occurrence of a word, ascending.

        A single character of a script without blanks occurs in all words that begin with it.
        """
        if is_prefix(word, self.splitter):
            # No word holds the byte 0xff.
            query = "SELECT occurrences FROM postings WHERE word >= ? AND word < ?"
            found = np.sort(self._array(query, (word, word + b"\xff")))
        else:
            found = self._array("SELECT occurrences FROM postings WHERE word = ? ORDER BY first", (word,))
        return self.checked(found)

    @cached_property
    def lengths(self) -> np.ndarray:
        """(num_documents,) int32: the number of words of each document, 0 for one without text."""
        lengths = self._array("SELECT lengths FROM lengths ORDER BY first", ())
        if len(lengths) != len(self) or lengths.min() < 0:
            raise self._damaged("the numbers of words do not fit the documents")
        return lengths

    def _array(self, query: str, parameters: Sequence[Any]) -> np.ndarray:
        """The int32 of the only column of all rows."""
        blobs = [blob for (blob,) in self._rows(query, parameters)]
        if not all(isinstance(blob, bytes) and len(blob) % 4 == 0 for blob in blobs):
            raise self._damaged("the index of its words has values of the wrong type")
        return np.frombuffer(b"".join(blobs), "<i4")


def _check_schema(connection: sqlite3.Connection) -> None:
    """Check that the file has the tables of `SCHEMA`, and no view, virtual table or generated column in their place.

    Raises:
        sqlite3.DatabaseError: if it has not.
    """
    listing = "SELECT name, CASE name WHEN 'fields' THEN substr(sql, 1, {}) ELSE sql END FROM sqlite_master LIMIT 100"
    # The statement that is stored of the table "fields" also has the columns that were added.
    statement = "CREATE TABLE fields (rowid INTEGER PRIMARY KEY"
    with closing(sqlite3.connect(":memory:")) as ours:
        ours.executescript(SCHEMA)
        expected = ours.execute(listing.format(len(statement))).fetchall()
    found = connection.execute(listing.format(len(statement))).fetchall()
    hidden = [row for row in connection.execute("PRAGMA table_xinfo(fields)") if row[6]]
    if sorted(found, key=str) != sorted(expected, key=str) or hidden:
        raise sqlite3.DatabaseError("its tables are not those of an index")
