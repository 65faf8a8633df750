"""Ids, texts and metadata of an index's documents, in one SQLite table keyed by the document's number."""

import json
import sqlite3
import weakref
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

# (id, text, metadata) of a document
Document = tuple[str, str | None, dict[str, Any]]

_SCHEMA = """
CREATE TABLE documents (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    text TEXT,
    metadata TEXT NOT NULL
)
"""


class DocumentWriter:
    """Appends documents to a new table. Use through `write_documents`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.count = 0

    def add(self, documents: Iterable[Document]) -> None:
        """Store documents under the next numbers.

        Raises:
            TypeError: if an id or text is not a string, or metadata not a dict that JSON can hold.
            ValueError: if an id was there before.
        """
        for id, text, metadata in documents:
            if not isinstance(id, str):
                raise TypeError(f"document {self.count}: ids must be strings, got {id!r} ({type(id).__name__})")
            if text is not None and not isinstance(text, str):
                raise TypeError(f"document {self.count} ({id!r}): texts must be strings, got {type(text).__name__}")
            row = (self.count, id, text, _to_json(metadata, f"document {self.count} ({id!r})"))
            try:
                self.connection.execute("INSERT INTO documents VALUES (?, ?, ?, ?)", row)
            except sqlite3.IntegrityError:
                (other,) = self.connection.execute("SELECT number FROM documents WHERE id = ?", (id,)).fetchone()
                raise ValueError(f"documents {other} and {self.count} have the same id {id!r}") from None
            except UnicodeEncodeError as error:
                raise ValueError(f"document {self.count} ({id!r}) holds text that is not Unicode: {error}") from error
            self.count += 1


def _to_json(metadata: Any, where: str) -> str:
    if not isinstance(metadata, dict):
        raise TypeError(f"{where}: metadata must be a dict, got {type(metadata).__name__}")
    try:
        return json.dumps(metadata, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{where}: metadata must be plain JSON values: {error}") from error


@contextmanager
def write_documents(path: Path) -> Iterator[DocumentWriter]:
    """Create the table at `path`; it is complete when the block ends.

    Raises:
        OSError: if the file cannot be written, for instance because the disk is full.
    """
    try:
        with closing(sqlite3.connect(path)) as connection:
            # The caller syncs the finished file and only then makes it visible, so a journal would protect nothing.
            connection.execute("PRAGMA journal_mode = OFF")
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute(_SCHEMA)
            yield DocumentWriter(connection)
            connection.commit()
    except sqlite3.OperationalError as error:
        raise OSError(f"cannot write {path}: {error}") from error


class Documents:
    """Read access to the table at `path`. The file stays open, so it may be deleted by a later build meanwhile."""

    def __init__(self, path: Path, count: int) -> None:
        """Open the table.

        Raises:
            ValueError: if the file is no such table or does not hold `count` documents.
        """
        try:
            self._connection = sqlite3.connect(
                f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False
            )
            weakref.finalize(self, self._connection.close)
            (last,) = self._connection.execute("SELECT max(number) FROM documents").fetchone()
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{path} is damaged: {error}; build the index again") from error
        if last != count - 1:
            raise ValueError(f"{path} is damaged: it ends at document {last} of {count}; build the index again")

    def __getitem__(self, number: int) -> Document:
        query = "SELECT id, text, metadata FROM documents WHERE number = ?"
        id, text, metadata = self._connection.execute(query, (number,)).fetchone()
        return id, text, json.loads(metadata)
